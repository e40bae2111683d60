"""One look of our own at a NIfTI header (NIfTI-1, NIfTI-2, pairs, ANALYZE) before it is read.

A header may place its voxels in three ways (sform, qform, pixdim), and they may disagree. Readers
choose one without a word; so it is chosen here (nifti_place.py), with a warning where it matters.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from OFLSAM2Core.io.image_header import (
    ImageHeader,
    damaged,
    missing_file,
    unusable,
)
from OFLSAM2Core.io.nifti_place import placed
from OFLSAM2Core.io.voxels import open_unpacked, packing_of

# Where ANALYZE has its first unused number (funused1).
_SPM_SCALE = 112

_SINGLE_FILE = (b"n+1", b"n+2")


def is_nifti(start: bytes) -> bool:
    """Whether a file that (unpacked) starts with these bytes has a NIfTI or ANALYZE header."""
    return _byte_order(start) is not None


def read_nifti_header(path: Path) -> ImageHeader:
    """The header of a NIfTI file, or of a pair by either of its files.

    Raises InputError naming the file: damaged, or without a spacing or place that can be used.
    """
    header_file, voxel_file = _pair(path)
    try:
        with open_unpacked(header_file) as stream:
            start = stream.read(540)
    except (OSError, EOFError, ValueError) as error:
        raise damaged(header_file, error) from error
    order = _byte_order(start)
    if order is None:
        raise damaged(path, "it does not start with a NIfTI header")
    endian, kind = order
    try:
        # The fields alone: extensions come after them, and are not used.
        header = kind(start[: kind.template_dtype.itemsize], endianness=endian, check=False)
        shape = _shape(header)
        dtype, components = _voxel_type(path, header)
    except (HeaderDataError, WrapStructError, ValueError) as error:
        raise damaged(path, error) from error
    analyze = "sform_code" not in header.structarr.dtype.names
    magic = b"" if analyze else header["magic"].tobytes()[:3]
    single = magic in _SINGLE_FILE
    if analyze and header_file == voxel_file:
        raise damaged(path, "it has no NIfTI magic")
    if not single and header_file == voxel_file:
        header_file, voxel_file = path, _sibling(path, ".img")
    if not voxel_file.exists():
        raise unusable(
            path,
            f"its voxels belong into '{voxel_file.name}', which is not there",
            "Put both files of the pair into one folder.",
        )
    notes: list[str] = []
    affine, forms = placed(path, header, shape, analyze, notes)
    slope, intercept = _scaling(path, header, analyze, notes)
    shape, components, component_axis = _vector(header, shape, components, analyze)
    return ImageHeader(
        path=path,
        shape=shape,
        affine=affine,
        dtype=dtype,
        files=(voxel_file,),
        packing=packing_of(voxel_file),
        skip=_offset(path, header, single, len(start) >= 540 and kind is nibabel.Nifti2Header),
        components=components,
        component_axis=component_axis,
        slope=slope,
        intercept=intercept,
        notes=tuple(notes),
        fields={"descrip": header["descrip"].tobytes().decode("latin-1").rstrip("\0")},
        forms=forms,
    )


def _byte_order(start: bytes) -> tuple[str, Any] | None:
    """Byte order and nibabel's class of the header; None where it is none."""
    for endian, order in (("<", "little"), (">", "big")):
        size = int.from_bytes(start[:4], order)  # type: ignore[arg-type]
        if size == 348 and len(start) >= 348:
            magic = start[344:347]
            if magic in (b"n+1", b"ni1"):
                return endian, nibabel.Nifti1Header
            return endian, nibabel.AnalyzeHeader
        if size == 540 and len(start) >= 540 and start[4:7] in (b"n+2", b"ni2"):
            return endian, nibabel.Nifti2Header
    return None


def _pair(path: Path) -> tuple[Path, Path]:
    """The file with the header, and the file with the voxels: the same, but for pairs."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".hdr"):
        return path, _sibling(path, ".img")
    if name.endswith(".img"):
        header = _sibling(path, ".hdr")
        if not header.exists():
            raise missing_file(header)
        return header, path
    return path, path


def _sibling(path: Path, extension: str) -> Path:
    """The other file of a pair, with the same extension of packing if there is one."""
    packed = path.name.lower().endswith(".gz")
    stem = Path(path.name.removesuffix(path.suffix)).stem if packed else path.stem
    names = [stem + extension, stem + extension.upper()]
    names = [name + end for name in names for end in ((".gz", "") if packed else ("", ".gz"))]
    found = [path.with_name(name) for name in names if path.with_name(name).exists()]
    return found[0] if found else path.with_name(names[0])


def _shape(header: Any) -> tuple[int, ...]:
    dimensions = [int(size) for size in header["dim"]]
    if not 1 <= dimensions[0] <= 7:
        raise ValueError(f"its header says {dimensions[0]} dimensions")
    shape = dimensions[1 : dimensions[0] + 1]
    if min(shape) < 1:
        raise ValueError(f"its header says {' x '.join(map(str, shape))} voxels")
    return tuple(shape)


def _voxel_type(path: Path, header: Any) -> tuple[np.dtype, int]:
    """The type of a stored number, and how many of them a voxel has (colour)."""
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        dtype = np.dtype([])
    if dtype.fields:  # RGB or RGBA
        return np.dtype(np.uint8), len(dtype.fields)
    if dtype.itemsize == 0:
        code = int(header["datatype"])
        raise unusable(
            path, f"its header names no known type of voxels (code {code})", "Export it again."
        )
    return dtype, 1


def _vector(
    header: Any, shape: tuple[int, ...], components: int, analyze: bool
) -> tuple[tuple[int, ...], int, int]:
    """NIfTI stores vectors along the fifth axis: shape without it, and the components."""
    if components == 1 and len(shape) == 5 and shape[4] > 1 and not analyze:
        return shape[:4], shape[4], 4
    return shape, components, 0


def _offset(path: Path, header: Any, single: bool, version_2: bool) -> int:
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < 0:
        raise damaged(path, f"its header says that voxels start at byte {offset}")
    return max(int(offset), 544 if version_2 else 352) if single else int(offset)


def _scaling(path: Path, header: Any, analyze: bool, notes: list[str]) -> tuple[float, float]:
    """Slope and intercept. By the standard, a slope of 0 means that there are none."""
    if analyze:
        # What ANALYZE leaves unused is a scale to SPM, FSL and AFNI.
        number = np.dtype(f"{header.endianness}f4")
        scale = float(np.frombuffer(header.binaryblock, number, 1, _SPM_SCALE)[0])
        if not math.isfinite(scale) or scale in (0, 1) or not 1e-12 < abs(scale) < 1e12:
            return 1.0, 0.0
        notes.append(f"scales its values by {scale:.6g}, as SPM writes it.")
        return scale, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise unusable(
            path,
            f"its header scales voxels by {slope:g} and adds {intercept:g}",
            "Repair scl_slope and scl_inter in the header.",
        )
    return slope, intercept
