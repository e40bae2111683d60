"""Put labels from one grid onto another: exactly where both are of one lattice, else resampled."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.counted import counted

# Headers hold single-precision numbers (NIfTI) or six digits; over a volume that makes up to a
# few hundredths of a voxel. More than that is another grid.
GRID_TOLERANCE = 0.05


# The share of the labelled volume that may lie outside of the image when labels are resampled. More
# says that they belong to another image.
_OUTSIDE = 0.05

_log = logging.getLogger(__name__)


def align_labels_to_volume(
    labels: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    volume: Volume,
    source: str | Path,
    *,
    same_grid: bool = False,
) -> npt.NDArray[np.uint8]:
    """`labels` (K, J, I) with its `affine` (RAS), on the grid of `volume`.

    The labels' grid may be a part of the volume's, and store its axes in another order or
    direction: then every voxel is taken over. On any other grid they are resampled in patient
    space (the nearest voxel), and a warning says how the grids differ. same_grid: these are
    refused. Raises InputError naming `source` and the volume where labels lie outside of it, or a
    structure is lost.
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
    if not is_turn or np.abs(error).max() > GRID_TOLERANCE:
        if same_grid:
            raise _differ(source, volume, grid_differences(labels.shape, affine, volume))
        return _resampled(labels, affine, volume, source)

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
            f"The segmentation '{source}' has {counted(outside, 'labelled voxel')} outside the "
            f"volume "
            f"'{volume.source or volume.name}'.",
            "Crop it to the volume, or pick the right pair.",
        )
    if part.size < labels.size:
        _log.warning(
            "The segmentation '%s' reaches beyond the volume '%s', where nothing is labelled (%s). "
            "Make sure that it is of this volume.",
            source,
            volume.source or volume.name,
            _sizes(labels.shape, volume.grid_shape),
        )
    result[tuple(slice(low, max(high, low)) for low, high in inside)] = part
    return result


def _resampled(
    labels: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    volume: Volume,
    source: str | Path,
) -> npt.NDArray[np.uint8]:
    differences = grid_differences(labels.shape, affine, volume)
    present = np.unique(labels[labels > 0])
    outside = _share_outside(labels, affine, volume)
    if outside > _OUTSIDE:
        raise InputError(
            f"{outside:.0%} of what is labelled in '{source}' lies outside the volume "
            f"'{volume.source or volume.name}'; their grids differ: {'; '.join(differences)}.",
            "Pick the right pair.",
        )
    result = np.zeros(volume.grid_shape, np.uint8)
    for plane, places in zip(result, places_by_plane(volume, affine), strict=True):
        # Beyond the outermost voxel centres there is half a voxel more.
        ndimage.map_coordinates(
            labels, places, output=plane, order=0, mode="grid-constant", cval=0, prefilter=False
        )
    lost = [str(label) for label in present if not (result == label).any()]
    if lost:
        raise InputError(
            f"The segmentation '{source}' loses the structures of value {', '.join(lost)} on the "
            f"grid of the volume '{volume.source or volume.name}': {'; '.join(differences)}.",
            "Draw them on the volume's own grid, or pick the right pair.",
        )
    _log.warning(
        "The segmentation '%s' is on another grid than the volume '%s': %s. It was resampled onto "
        "the volume's grid in patient space.",
        source,
        volume.source or volume.name,
        "; ".join(differences),
    )
    return result


def _share_outside(
    labels: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], volume: Volume
) -> float:
    """The share of labelled voxels whose centres lie outside the volume's outermost voxels."""
    to_volume = np.linalg.inv(volume.affine) @ affine
    size = np.array(volume.grid_shape[::-1])
    outside, count = 0, 0
    for k, plane in enumerate(labels):
        j, i = np.nonzero(plane)
        if not len(j):
            continue
        index = to_volume[:3] @ np.stack([i, j, np.full(len(i), k), np.ones(len(i))])
        outside += int(((index < -0.5) | (index > size[:, None] - 0.5)).any(axis=0).sum())
        count += len(j)
    return outside / count if count else 0.0


def _differ(source: str | Path, volume: Volume, differences: list[str]) -> InputError:
    return InputError(
        f"The segmentation '{source}' is on another grid than the volume "
        f"'{volume.source or volume.name}': {'; '.join(differences)}.",
        "Resample the segmentation onto the volume's grid, or pick the right pair.",
    )


def places_by_plane(volume: Volume, affine: npt.NDArray) -> Iterator[npt.NDArray[np.float64]]:
    """For each plane of a volume's array, where its voxels lie in an array on the grid of `affine`,
    in voxels of that, (3, J, I) in numpy's order of axes."""
    to_other = np.linalg.inv(affine) @ volume.affine
    matrix, offset = to_other[:3, :3][::-1, ::-1], to_other[:3, 3][::-1]
    count, *plane = volume.grid_shape
    rows, columns = (np.arange(size, dtype=np.float64) for size in plane)
    for k in range(count):
        yield (
            offset[:, None, None]
            + matrix[:, 0, None, None] * k
            + matrix[:, 1, None, None] * rows[:, None]
            + matrix[:, 2, None, None] * columns[None, :]
        )


def grid_differences(
    shape: tuple[int, ...], affine: npt.NDArray[np.float64], volume: Volume
) -> list[str]:
    """Size, spacing, origin and direction where they differ, the volume's last."""
    differences = []
    if tuple(shape) != volume.grid_shape:
        differences.append(_sizes(shape, volume.grid_shape))
    spacing, own = Volume(np.empty(0), affine).spacing, volume.spacing
    if not np.allclose(spacing, own, rtol=1e-3):
        differences.append(f"spacing {_numbers(spacing)} and {_numbers(own)} mm")
    direction, own_direction = affine[:3, :3] / spacing, volume.affine[:3, :3] / own
    if not np.allclose(direction, own_direction, atol=1e-3):
        cosines = np.clip((direction * own_direction).sum(axis=0), -1, 1)
        angles = np.degrees(np.arccos(cosines))
        differences.append(f"axes turned by {_numbers(angles)} degrees")
    shift = affine[:3, 3] - volume.affine[:3, 3]
    if np.abs(shift).max() > GRID_TOLERANCE * min(own):
        differences.append(
            f"origin {_numbers(affine[:3, 3])} and {_numbers(volume.affine[:3, 3])} mm (RAS)"
        )
    return differences or ["small differences that add up across the volume"]


def _sizes(shape: tuple[int, ...], other: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, shape[::-1]))} and {' x '.join(map(str, other[::-1]))} voxels"


def _numbers(values: npt.ArrayLike) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in np.asarray(values, float)) + ")"
