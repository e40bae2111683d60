"""Put labels from one grid onto another of the same lattice, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError

# Headers hold single-precision numbers (NIfTI) or six digits; over a volume that makes up to a
# few hundredths of a voxel. More than that is another grid.
_TOLERANCE = 0.05


def align_labels_to_volume(
    labels: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    volume: Volume,
    source: str | Path,
) -> npt.NDArray[np.uint8]:
    """`labels` (K, J, I) with its `affine` (RAS), on the grid of `volume`; nothing is resampled.

    The labels' grid may be a part of the volume's, and store its axes in another order or
    direction. Raises InputError naming `source` and the volume, and how they differ.
    """
    if volume.is_sequence:
        if labels.shape != volume.grid_shape:
            raise _differ(source, volume, [_sizes(labels.shape, volume.grid_shape)])
        return labels
    to_volume = np.linalg.inv(volume.affine) @ affine
    turn = np.rint(to_volume[:3, :3])
    is_turn = np.array_equal(np.abs(turn).sum(axis=0), [1, 1, 1]) and np.array_equal(
        np.abs(turn).sum(axis=1), [1, 1, 1]
    )
    offset = np.rint(to_volume[:3, 3])
    last = np.array(labels.shape[::-1]) - 1.0
    corners = np.array(np.meshgrid(*[(0.0, end) for end in last], indexing="ij")).reshape(3, -1)
    error = (to_volume[:3, :3] - turn) @ corners + (to_volume[:3, 3] - offset)[:, None]
    if not is_turn or np.abs(error).max() > _TOLERANCE:
        raise _differ(source, volume, _differences(labels.shape, affine, volume))

    # Bring the labels' axes into the volume's order (numpy: k, j, i) and direction.
    of_axis = np.abs(turn).argmax(axis=1)
    labels = labels.transpose([2 - int(of_axis[axis]) for axis in (2, 1, 0)])
    first = np.minimum(offset, offset + turn @ last).astype(int)[::-1]
    signs = turn.sum(axis=1)[::-1]
    labels = labels[tuple(slice(None, None, -1 if sign < 0 else None) for sign in signs)]

    result = np.zeros(volume.grid_shape, np.uint8)
    inside = [
        (max(start, 0), min(start + size, limit))
        for start, size, limit in zip(first, labels.shape, result.shape, strict=True)
    ]
    part = labels[
        tuple(
            slice(low - start, max(high, low) - start)
            for (low, high), start in zip(inside, first, strict=True)
        )
    ]
    outside = int(np.count_nonzero(labels)) - int(np.count_nonzero(part))
    if outside:
        raise InputError(
            f"The segmentation '{source}' has {outside} labelled voxels outside the volume "
            f"'{volume.source or volume.name}'.",
            "Crop it to the volume, or pick the right pair.",
        )
    result[tuple(slice(low, max(high, low)) for low, high in inside)] = part
    return result


def _differ(source: str | Path, volume: Volume, differences: list[str]) -> InputError:
    return InputError(
        f"The segmentation '{source}' is on another grid than the volume "
        f"'{volume.source or volume.name}': {'; '.join(differences)}.",
        "Resample the segmentation onto the volume's grid, or pick the right pair.",
    )


def _differences(
    shape: tuple[int, ...], affine: npt.NDArray[np.float64], volume: Volume
) -> list[str]:
    """Size, spacing, origin and direction, where they differ, segmentation first."""
    told = []
    if tuple(shape) != volume.grid_shape:
        told.append(_sizes(shape, volume.grid_shape))
    spacing, own = Volume(np.empty(0), affine).spacing, volume.spacing
    if not np.allclose(spacing, own, rtol=1e-3):
        told.append(f"spacing {_numbers(spacing)} and {_numbers(own)} mm")
    direction, own_direction = affine[:3, :3] / spacing, volume.affine[:3, :3] / own
    if not np.allclose(direction, own_direction, atol=1e-3):
        cosines = np.clip((direction * own_direction).sum(axis=0), -1, 1)
        angles = np.degrees(np.arccos(cosines))
        told.append(f"axes turned by {_numbers(angles)} degrees")
    shift = affine[:3, 3] - volume.affine[:3, 3]
    if np.abs(shift).max() > _TOLERANCE * min(own):
        told.append(
            f"origin {_numbers(affine[:3, 3])} and {_numbers(volume.affine[:3, 3])} mm (RAS)"
        )
    return told or ["small differences that add up across the volume"]


def _sizes(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape[::-1]))} and {' x '.join(map(str, other[::-1]))} voxels"


def _numbers(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, float)) + ")"
