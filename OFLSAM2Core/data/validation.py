"""What volumes and labels must fulfil before work starts, from files or from memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.counted import counted

_LEAST_SPACING = 1e-5  # mm; 10 nm, of an electron microscope
_MOST_SPACING = 1000.0
_MOST_ANISOTROPIC = 1000
_FARTHEST = 1e6  # mm, of the first voxel from the origin of the world


MOST_VOLUMES = 3
"""Co-registered volumes of one patient in a case, at most: a backbone has three channels."""


def check_volume(volume: Volume) -> None:
    """A finite scalar volume with invertible geometry, or a sequence of colour frames; and its
    further volumes likewise.

    Raises InputError naming the volume and what is wrong with it.
    """
    where = f"'{volume.source or volume.name}'"
    array = volume.array
    if volume.further:
        _check_further(volume)
    if array.ndim == 4:
        if array.shape[3] != 3 or array.dtype != np.uint8:
            raise InputError(
                f"{where} is a 4D array of {array.shape} {array.dtype}, neither a volume nor "
                "a sequence of 8-bit RGB frames.",
                "Give one 3D volume; split a 4D series into its volumes first.",
            )
        return
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(
            f"{where} has {array.ndim} dimensions ({array.shape}), not the 3 of a volume.",
            "Give one 3D volume.",
        )
    if array.dtype.kind not in "iufb":
        raise InputError(
            f"{where} has voxels of the type {array.dtype}.", "Give integer or real voxels."
        )
    if array.dtype.kind == "f":
        bad = sum(int(plane.size - np.isfinite(plane).sum()) for plane in array)
        if bad:
            raise voxels_not_finite(volume.source or volume.name, bad)
    check_geometry(volume)
    check_spacing(volume)


def _check_further(volume: Volume) -> None:
    if volume.volume_count > MOST_VOLUMES:
        raise InputError(
            f"'{volume.name}' comes as {volume.volume_count} co-registered volumes.",
            f"Give {MOST_VOLUMES} at most: a backbone has so many channels.",
        )
    for each in volume.further:
        if volume.is_sequence or each.is_sequence:
            raise InputError(
                f"'{volume.name}' and '{each.name}' are given as one case, and one of them is a "
                "sequence of colour frames.",
                "Give co-registered volumes of one grey value a voxel, or the sequence alone.",
            )
        if each.further:
            raise InputError(
                f"'{each.name}' is a further volume of '{volume.name}' and has further volumes "
                "itself.",
                "Give all of them as further volumes of the first.",
            )
        check_volume(each)


def voxels_not_finite(source: str | Path, count: int) -> InputError:
    return InputError(
        f"'{source}' has {counted(count, 'voxel')} that {'is' if count == 1 else 'are'} NaN or "
        f"infinite.",
        "Replace them (by the background value, say) and try again.",
    )


def check_geometry(volume: Volume) -> None:
    """Index to world can be inverted, and leads to where patients are. Raises InputError naming
    the volume."""
    affine = np.asarray(volume.affine, dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    # A unit cell of under a thousandth of its box's volume: two axes are as good as parallel.
    if (
        affine.shape != (4, 4)
        or not np.isfinite(affine).all()
        or not lengths.all()
        or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3
    ):
        raise InputError(
            f"The geometry of '{volume.source or volume.name}' cannot be inverted (zero spacing, "
            "or axes that are not independent).",
            "Repair the header: three independent axes with positive spacing.",
        )
    if np.abs(affine[:3, 3]).max() > _FARTHEST:
        raise InputError(
            f"'{volume.source or volume.name}' lies {np.abs(affine[:3, 3]).max():.3g} mm from the "
            "origin of its coordinates.",
            "Repair the origin in the header.",
        )


def check_spacing(volume: Volume) -> None:
    """Spacing that voxels of some instrument have. What lies far out is a header in other units,
    and would have a volume resampled to billions of voxels.

    Raises InputError naming the volume.
    """
    spacing = volume.spacing
    if min(spacing) < _LEAST_SPACING or max(spacing) > _MOST_SPACING:
        sides = " x ".join(f"{length:.3g}" for length in spacing)
        raise InputError(
            f"'{volume.source or volume.name}' has voxels of {sides} mm.",
            f"Spacing is in millimetres, from {_LEAST_SPACING:g} to {_MOST_SPACING:g}: repair the "
            "header.",
        )
    if max(spacing) > _MOST_ANISOTROPIC * min(spacing):
        sides = " x ".join(f"{length:.3g}" for length in spacing)
        raise InputError(
            f"'{volume.source or volume.name}' has voxels of {sides} mm: one side is more than "
            f"{_MOST_ANISOTROPIC} times another.",
            "Repair the spacing in the header.",
        )


def check_labels(
    labels: npt.NDArray,
    structures: Sequence[Structure],
    source: str | Path,
    table: str = "",
    *,
    may_be_empty: bool = False,
) -> None:
    """Something is labelled (unless it may be empty), and every value is 0 or a structure's.

    source: the segmentation's file or name; table: what names the values, both for messages.
    Raises InputError naming them and the values.
    """
    if labels.dtype.kind not in "iub" or (
        labels.size and not 0 <= labels.min() <= labels.max() <= 255
    ):
        raise InputError(
            f"The segmentation '{source}' has values that are not whole numbers from 0 to 255.",
            "Give a labelmap with values from 0 (background) to 255.",
        )
    found = np.zeros(256, np.int64)
    for plane in labels:  # at once it takes 8 bytes a voxel
        found += np.bincount(plane.ravel(), minlength=256)
    if not may_be_empty and not found[1:].any():
        raise InputError(
            f"The segmentation '{source}' is empty: every voxel is background.",
            "Give one with at least one structure drawn.",
        )
    known = {structure.label for structure in structures}
    unknown = [value for value in np.flatnonzero(found).tolist() if value and value not in known]
    if unknown:
        raise InputError(
            f"The segmentation '{source}' has values that {table or 'its structures'} "
            f"{'does' if table else 'do'} not name: {', '.join(map(str, unknown[:10]))}"
            f"{' and more' if len(unknown) > 10 else ''}.",
            "Add them to the label table, or remove them from the segmentation.",
        )
