"""Where the voxels of a NIfTI file lie: one of three placements that a header has, by one rule.

The sform if its code is positive, else the qform, else pixdim with the orientation unknown. Where
they disagree, or the one that counts is invalid, there is a warning or a refusal.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.volume import NiftiForms
from OFLSAM2Core.io.image_header import check_affine, damaged, numbers, unusable

_SPACING_HINT = "Repair the header: the spacing must be in mm, more than 0 along every axis."

_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}

# Spacing that no scanner has: more likely, the unit in the header is wrong.
_LARGEST_SPACING = 200.0

# Rounding to single precision moves a corner of a volume by less (a share of a voxel).
_MOVED = 0.05


def placed(
    path: Path, header: Any, shape: tuple[int, ...], analyze: bool, notes: list[str]
) -> tuple[npt.NDArray[np.float64], NiftiForms | None]:
    """Index to world (RAS, mm), and the forms as stored; `notes` gets the warnings.

    header: nibabel's. analyze: it is of ANALYZE, which has no forms. Raises InputError naming the
    file and the axis where there is no place that can be used.
    """
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
        lengths = ", ".join(f"{length:g} mm along axis {name}" for name, length in bad_axes.items())
        raise unusable(path, f"its voxels have a spacing of {lengths}", _SPACING_HINT)
