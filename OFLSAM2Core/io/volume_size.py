"""How large a volume will be in memory, by its header alone: nothing of its voxels is read."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.io.frames import frame_files, picture_size
from OFLSAM2Core.io.image_files import bytes_to_read, kind_of, read_header
from OFLSAM2Core.io.voxels import voxel_bytes


@dataclass(frozen=True)
class VolumeSize:
    """shape: fastest axis last, as arrays have it. bytes: of the voxels as they are stored.
    read_bytes: what is needed while they are read. slices: as it is cut unless an axis is asked
    for; None: not known, most likely along the first axis."""

    shape: tuple[int, ...]
    bytes: int
    read_bytes: int
    slices: int | None = None

    @property
    def voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of a voxel."""
        return self.bytes // max(1, self.voxels)


def volume_size(path: str | Path) -> VolumeSize | None:
    """The size of anything that `read_volume` reads; None where a header does not give it (a folder
    of many series, a damaged file): reading the file reports why.
    """
    try:
        return _size(Path(path))
    except (OFLSAM2Error, OSError, ValueError):
        return None


def _size(path: Path) -> VolumeSize | None:
    from OFLSAM2Core.io.dicom_folder import has_dicom, split_series

    folder, series = split_series(path)
    if folder.is_dir():
        if series is None and not has_dicom(folder):
            return _of_frames(folder)
        return _of_dicom(folder, series)
    kind = kind_of(folder)
    if kind == "dicom":
        return _of_dicom(folder, series)
    if kind == "zip":
        with zipfile.ZipFile(folder) as archive:
            entries = archive.infolist()
        count = sum(entry.file_size for entry in entries)
        # A slice a file, of DICOM; of one file in it, the session counts them when it is read.
        return VolumeSize((count,), count, 2 * count, slices=len(entries))
    if kind == "picture":
        return _of_pixels(*picture_size(folder))
    header = read_header(folder, kind)
    shape = tuple(header.shape[::-1])
    return VolumeSize(
        shape, voxel_bytes(header), bytes_to_read(header), _slices(shape, header.affine)
    )


def _slices(shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> int:
    if len(shape) < 3:
        return 1
    no_voxels = np.broadcast_to(np.uint8(0), shape[-3:])  # one byte, whatever the shape
    return SliceGeometry.for_volume(Volume(no_voxels, affine)).count


def _of_frames(folder: Path) -> VolumeSize | None:
    files = frame_files(folder)
    if not files:
        return None
    width, height, _, _ = picture_size(files[0])
    count = len(files) * height * width * 3
    return VolumeSize((len(files), height, width), count, count)


def _of_pixels(width: int, height: int, pages: int, pixel: int) -> VolumeSize:
    count = pages * height * width * pixel
    return VolumeSize((pages, height, width), count, 2 * count)


def _of_dicom(path: Path, series: str | None) -> VolumeSize | None:
    from OFLSAM2Core.io.dicom_file import read_dicom_file
    from OFLSAM2Core.io.dicom_folder import choose_series, dicom_files, images_by_series

    if path.is_dir():
        files = choose_series(path, images_by_series(dicom_files(path)), series)
    else:
        # Where it is one slice of many, the others lie beside it: as large as it is.
        first = read_dicom_file(path)
        beside = sum(1 for other in path.parent.iterdir() if other.suffix == path.suffix)
        files = [first] * (beside if first.frames == 1 else 1)
    if not files:
        return None
    frames = sum(file.frames for file in files)
    header = files[0].header
    rows, columns = int(header.Rows), int(header.Columns)
    pixel = -(-int(header.BitsAllocated) // 8)
    voxels = frames * rows * columns
    # Each picture is decoded and scaled in floating point; the volume is then filled.
    return VolumeSize((frames, rows, columns), voxels * pixel, voxels * (pixel + 4))
