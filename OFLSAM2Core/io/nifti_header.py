"""One look of our own at a NIfTI header (NIfTI-1, NIfTI-2, pairs, ANALYZE) before it is read.

A header may place its voxels in three ways (sform, qform, pixdim), and they may disagree. Readers
choose one without a word; so it is chosen here, by one rule, and said where it matters: the sform
if its code is positive, else the qform, else pixdim with the orientation unknown.
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from OFLSAM2Core.data.volume import NiftiForms
from OFLSAM2Core.io.image_header import (
    ImageHeader,
    check_affine,
    damaged,
    missing_file,
    numbers,
    unusable,
)
from OFLSAM2Core.io.voxels import open_unpacked, packing_of

_SINGLE_FILE = (b"n+1", b"n+2")
_SPACING_HINT = "Repair the header: the spacing must be in mm, more than 0 along every axis."

_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}

# Spacing that no scanner has: more likely, the unit in the header is wrong.
_LARGEST_SPACING = 200.0

# Rounding to single precision moves a corner of a volume by less (a share of a voxel).
_MOVED = 0.05


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
        header = kind.from_fileobj(BytesIO(start), endianness=endian, check=False)
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
    affine, forms = _place(path, header, shape, analyze, notes)
    slope, intercept = _scaling(path, header, analyze)
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


def _scaling(path: Path, header: Any, analyze: bool) -> tuple[float, float]:
    """Slope and intercept. By the standard, a slope of 0 means that there are none."""
    if analyze:
        return 1.0, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if math.isnan(intercept):
        intercept = 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise unusable(
            path,
            f"its header scales voxels by {slope:g} and adds {intercept:g}",
            "Repair scl_slope and scl_inter in the header.",
        )
    return slope, intercept


def _place(
    path: Path, header: Any, shape: tuple[int, ...], analyze: bool, notes: list[str]
) -> tuple[npt.NDArray[np.float64], NiftiForms | None]:
    """Index to world (RAS, mm), and the forms as stored; `notes` gets what is to be said."""
    spacing, bad_axes = _pixdim(header, shape)
    if analyze:
        affine = _unplaced(path, shape, spacing, bad_axes, notes)
        return affine, None
    codes = int(header["sform_code"]), int(header["qform_code"])
    units = int(header["xyzt_units"]) & 7
    sform = header.get_sform() if codes[0] > 0 else None
    qform = _qform(header, spacing) if codes[1] > 0 and not bad_axes else None
    if sform is not None and _is_usable(sform):
        affine = sform
        _compare(affine, qform, spacing, shape, notes)
    elif qform is not None:
        affine = qform
        if sform is not None:
            notes.append("has an sform that cannot be used; it is placed by its qform.")
    elif sform is not None:
        check_affine(path, sform)
        raise damaged(path, "its sform cannot be used, and it has no other")
    elif codes[1] > 0:
        _refuse(path, bad_axes)
        raise damaged(path, "the quaternion of its qform is none")
    else:
        affine = _unplaced(path, shape, spacing, bad_axes, notes)
    affine = np.array(affine, np.float64)
    if units in _UNITS:
        unit, factor = _UNITS[units]
        largest = np.linalg.norm(affine[:3, :3], axis=0).max() * factor
        if largest <= _LARGEST_SPACING:
            affine[:3] *= factor
            notes.append(f"is in {unit}; its spacing is {largest:.4g} mm at most.")
        else:
            notes.append(
                f"says that it is in {unit}, which would be a spacing of {largest:g} mm. "
                "It is read as if it was in mm."
            )
    notes += check_affine(path, affine)
    return affine, NiftiForms(sform, codes[0], qform, codes[1], units, affine)


def _pixdim(
    header: Any, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], dict[str, float]]:
    """Spacing, 1 along axes that there are not; and by axis what is no spacing."""
    spacing = np.ones(3)
    bad = {}
    for axis, name in enumerate("ijk"):
        length = float(header["pixdim"][axis + 1])
        if math.isfinite(length) and length > 0:
            spacing[axis] = length
        elif axis < len(shape):
            bad[name] = length
    return spacing, bad


def _qform(header: Any, spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """None where quaternion or offset are no numbers."""
    quaternion = np.array([float(header[f"quatern_{part}"]) for part in "bcd"])
    offset = np.array([float(header[f"qoffset_{part}"]) for part in "xyz"])
    if not (np.isfinite(quaternion).all() and np.isfinite(offset).all()):
        return None
    square = float(quaternion @ quaternion)
    if square > 1 + 1e-4:
        return None
    if square > 1:
        quaternion /= math.sqrt(square)
    qfac = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    real = math.sqrt(max(0.0, 1 - float(quaternion @ quaternion)))
    affine = np.eye(4)
    turn = nibabel.quaternions.quat2mat([real, *quaternion])
    affine[:3, :3] = turn * (spacing * [1, 1, qfac])
    affine[:3, 3] = offset
    return affine


def _is_usable(affine: npt.NDArray[np.float64]) -> bool:
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.all()) and abs(np.linalg.det(affine[:3, :3] / lengths)) >= 1e-3


def _compare(
    sform: npt.NDArray[np.float64],
    qform: npt.NDArray[np.float64] | None,
    pixdim: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    notes: list[str],
) -> None:
    """Say where the sform, which is used, is not what else the header says."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if qform is not None:
        last = np.array([*shape[:3], 1, 1])[:3] - 1.0
        corners = np.array(np.meshgrid(*[(0.0, end) for end in last], indexing="ij")).reshape(3, -1)
        apart = (sform - qform) @ np.vstack([corners, np.ones(corners.shape[1])])
        furthest = float(np.linalg.norm(apart[:3], axis=0).max())
        if furthest > max(_MOVED * lengths.min(), 1e-3):
            notes.append(
                f"is placed in two ways that differ by up to {furthest:.4g} mm (sform and qform). "
                "The sform is used; other programs may use the qform."
            )
            return
    axes = min(len(shape), 3)
    if not np.allclose(lengths[:axes], pixdim[:axes], rtol=0.01):
        notes.append(
            f"has a spacing of {numbers(lengths)} mm by its sform and {numbers(pixdim)} by its "
            "pixdim. The sform is used."
        )


def _unplaced(
    path: Path,
    shape: tuple[int, ...],
    spacing: npt.NDArray[np.float64],
    bad_axes: dict[str, float],
    notes: list[str],
) -> npt.NDArray[np.float64]:
    """As nibabel places what has no orientation: left and right as radiologists see it."""
    _refuse(path, bad_axes)
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    size = np.array([*shape[:3], 1, 1])[:3]
    affine[:3, 3] = -(affine[:3, :3] @ ((size - 1) / 2))
    notes.append(
        "does not say how it is oriented (no sform, no qform): left and right are a guess, and "
        "results may lie elsewhere in other programs."
    )
    return affine


def _refuse(path: Path, bad_axes: dict[str, float]) -> None:
    if bad_axes:
        told = ", ".join(f"{length:g} mm along axis {name}" for name, length in bad_axes.items())
        raise unusable(path, f"its voxels have a spacing of {told}", _SPACING_HINT)
