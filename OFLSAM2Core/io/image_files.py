"""One image file: its kind by its first bytes, its header, its voxels as one 3D array."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_header import ImageHeader, damaged, missing_file, unusable
from OFLSAM2Core.io.metaimage_header import is_meta_image, read_meta_image_header
from OFLSAM2Core.io.mgh_header import read_mgh_header
from OFLSAM2Core.io.nifti_header import is_nifti, read_nifti_header
from OFLSAM2Core.io.nrrd_header import read_nrrd_header
from OFLSAM2Core.io.voxels import open_unpacked, read_voxels, voxel_bytes
from OFLSAM2Core.runtime.memory_check import require_memory

IMAGE_EXTENSIONS = (
    ".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".nrrd", ".nhdr", ".mha", ".mhd",
    ".mgh", ".mgz",
)  # fmt: skip

_KNOWN = (
    f"Use one of {', '.join(IMAGE_EXTENSIONS)}, a picture, a DICOM file, folder or zip archive, or "
    "a folder of frames."
)

# Luminance of red, green and blue (ITU-R BT.601).
_LUMINANCE = np.array([0.299, 0.587, 0.114])

_log = logging.getLogger(__name__)


def is_image_file(path: Path) -> bool:
    """By its name."""
    return path.name.lower().endswith(IMAGE_EXTENSIONS)


def kind_of(path: Path) -> str:
    """ "nifti", "nrrd", "meta", "mgh", "dicom", "zip", "picture", or "" for what is none of these.

    By the first bytes, whatever the name. Raises InputError: missing, empty, not to be opened.
    """
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None)
        if reason is None or isinstance(error, FileNotFoundError):
            raise missing_file(path) from error
        raise InputError(f"'{path}' cannot be read: {reason}.", "Check the path.") from error
    if not path.is_file():
        raise InputError(f"'{path}' is no file.", _KNOWN)
    if size == 0:
        raise damaged(path, "it is empty: 0 bytes")
    try:
        with open(path, "rb") as file:
            plain = file.read(540)
        with open_unpacked(path) as stream:
            start = stream.read(540)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:
            raise InputError(
                f"'{path}' cannot be read: {getattr(error, 'strerror', error)}.",
                "Check that it is there and may be read.",
            ) from error
        raise damaged(path, error) from error
    if plain[128:132] == b"DICM":
        return "dicom"
    if plain[:2] in (b"\x08\x00", b"\x02\x00"):  # as old scanners wrote it, without a preamble
        from OFLSAM2Core.io.dicom_file import is_dicom

        if is_dicom(path):
            return "dicom"
    if plain[:4] == b"PK\x03\x04":
        return "zip"
    if plain[:8] == b"\x89PNG\r\n\x1a\n" or plain[:3] == b"\xff\xd8\xff":
        return "picture"
    if plain[:2] == b"BM" or plain[:4] in (b"II*\0", b"MM\0*"):
        return "picture"
    if plain.startswith(b"NRRD"):
        return "nrrd"
    if is_nifti(start):
        return "nifti"
    if is_meta_image(plain):
        return "meta"
    if start[:4] == b"\0\0\0\1" and path.name.lower().endswith((".mgh", ".mgz", ".mgh.gz")):
        return "mgh"
    if path.name.lower().endswith((".img", ".img.gz")):
        return "nifti"  # The voxels of a pair.
    return ""


def read_header(path: Path, kind: str | None = None) -> ImageHeader:
    """The header of an image file of one of the kinds "nifti", "nrrd", "meta" and "mgh".

    Raises InputError naming the file: missing, damaged, of another kind, without a place.
    """
    kind = kind_of(path) if kind is None else kind
    reader = {
        "nifti": read_nifti_header,
        "nrrd": read_nrrd_header,
        "meta": read_meta_image_header,
        "mgh": read_mgh_header,
    }.get(kind)
    if reader is None:
        if not is_image_file(path):
            raise InputError(f"'{path}' is of a kind that is not known here.", _KNOWN)
        raise damaged(path, "it does not start as such a file does")
    return reader(path)


def read_image(
    path: Path, kind: str | None = None, channel: int | None = None
) -> tuple[npt.NDArray, ImageHeader]:
    """Voxels (K, J, I) of one 3D grey volume, and their header.

    channel: of a file with several volumes, which one; None: there must be one.

    Voxels keep their stored type unless the header scales them. A flat picture is one slice; axes
    of length 1 beyond the third are left out; colours become grey. A warning names what had to be
    chosen.

    Raises InputError naming the file: see `read_header`, and several volumes, vectors.
    """
    header = read_header(path, kind)
    check_scalar_type(path, header.dtype)
    require_memory(bytes_to_read(header), f"Reading '{path}'", "Close other programs, or crop it.")
    array = scaled(read_voxels(header), header)
    header.say_notes()
    if channel is not None and header.components == 1:
        count = len(array) if array.ndim == 4 else 1
        if not 0 <= channel < count:
            raise InputError(
                f"'{path}' has {'one volume' if count == 1 else f'{count} volumes'}, none of the "
                f"number {channel}.",
                "Volumes are counted from 0.",
            )
        array = array[channel] if array.ndim == 4 else array
    return one_volume(path, array, header.components), header


def bytes_to_read(header: ImageHeader) -> int:
    """What reading the voxels takes at its most: as stored, and again swapped or scaled."""
    stored = voxel_bytes(header)
    values = stored // header.dtype.itemsize
    again = 8 * values if (header.slope, header.intercept) != (1.0, 0.0) else 0
    return stored + max(again, 0 if header.dtype.isnative else stored)


def check_scalar_type(path: Path, dtype: np.dtype) -> None:
    """Raises InputError for complex numbers and other things that are no grey values."""
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise unusable(path, f"its voxels are of the type {dtype}", "Give integer or real voxels.")


def scaled(array: npt.NDArray, header: ImageHeader) -> npt.NDArray:
    """Real values: stored ones where nothing is to be scaled, integers where they stay so."""
    slope, intercept = header.slope, header.intercept
    if slope == 1 and intercept == 0:
        return array
    if array.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        bounds = [float(array.min()) * slope + intercept, float(array.max()) * slope + intercept]
        for dtype in (np.int16, np.int32):
            if min(bounds) >= np.iinfo(dtype).min and max(bounds) <= np.iinfo(dtype).max:
                return (array.astype(np.int64) * int(slope) + int(intercept)).astype(dtype)
    return (array * np.float64(slope) + intercept).astype(np.float32)


def one_volume(path: Path, array: npt.NDArray, components: int = 1) -> npt.NDArray:
    """(K, J, I) of an array whose slowest axis comes first, the components of a voxel last.

    Raises InputError naming the file where it holds several volumes, or vectors.
    """
    if components == 1:
        array = array[..., np.newaxis]
    while array.ndim > 4 and array.shape[0] == 1:
        array = array[0]
    while array.ndim < 4:
        array = array[np.newaxis]
    several = array.ndim == 5 and array.shape[-1] == 1 and 3 <= array.shape[0] <= 4
    if several and all(np.array_equal(array[0], other) for other in array[1:3]):
        array = np.moveaxis(array[..., 0], 0, -1)  # Grey values stored three times.
    if array.ndim != 4:
        sizes = " x ".join(map(str, array.shape[-2::-1]))
        raise InputError(
            f"'{path}' is {array.ndim - 1}D ({sizes}), not a volume.",
            "Give one 3D volume; split a 4D series into its volumes first.",
        )
    return array[..., 0] if array.shape[-1] == 1 else as_grey(path, array)


def as_grey(path: Path, array: npt.NDArray) -> npt.NDArray:
    """Grey values (the luminance) of colours along the last axis, and says so.

    Raises InputError naming the file where the components are no colours.
    """
    count = array.shape[-1]
    red, green, blue = (array[..., min(part, count - 1)] for part in range(3))
    if count in (3, 4) and np.array_equal(red, green) and np.array_equal(red, blue):
        _log.warning("'%s' holds grey values %d times; they are read once.", path, count)
        return red.copy()
    if count not in (3, 4) or array.dtype != np.uint8:
        raise InputError(
            f"'{path}' has {count} values in every voxel (a vector image), not one.",
            "Give a scalar volume; layers of a segmentation belong into a .seg.nrrd file.",
        )
    _log.warning("'%s' is in colour; it is read as grey values (luminance).", path)
    grey = np.empty(array.shape[:-1], np.uint8)
    for plane, result in zip(array, grey, strict=True):
        result[:] = np.rint(plane[..., :3] @ _LUMINANCE)
    return grey
