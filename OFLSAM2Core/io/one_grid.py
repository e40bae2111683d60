"""Put the further volumes of a case onto the first one's grid, in patient space."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.align_labels import GRID_TOLERANCE, grid_differences, places_by_plane

_log = logging.getLogger(__name__)


def on_one_grid(volume: Volume) -> Volume:
    """The same case with every further volume on the grid of the first.

    One on another grid is resampled linearly, with its lowest value where it does not reach; a
    warning says how the grids differ, and how much of the first volume it leaves out. Raises
    InputError naming both where they do not overlap.
    """
    if not volume.further:
        return volume
    return replace(volume, further=tuple(_on_grid_of(volume, each) for each in volume.further))


def _on_grid_of(volume: Volume, other: Volume) -> Volume:
    if _same_grid(volume, other):
        return replace(other, affine=volume.affine)
    last = np.array(other.array.shape) - 0.5
    result = np.empty(volume.grid_shape, np.float32)
    stored, lowest = other.array.astype(np.float32), float(other.array.min())
    inside = 0
    for plane, places in zip(result, places_by_plane(volume, other.affine), strict=True):
        # Beyond the outermost voxel centres there is half a voxel more, of the same value.
        there = ((places >= -0.5) & (places <= last[:, None, None])).all(axis=0)
        inside += int(there.sum())
        ndimage.map_coordinates(
            stored, places, output=plane, order=1, mode="nearest", prefilter=False
        )
        plane[~there] = lowest
    differences = grid_differences(other.array.shape, other.affine, volume)
    if not inside:
        raise InputError(
            f"'{other.source or other.name}' does not overlap '{volume.source or volume.name}'; "
            f"their grids differ: {'; '.join(differences)}.",
            "Register one to the other first, or pick the right pair.",
        )
    outside = 1 - inside / result.size
    _log.warning(
        "'%s' was resampled onto the grid of '%s': %s.%s",
        other.name,
        volume.name,
        "; ".join(differences),
        f" It leaves out {outside:.0%} of it." if outside > 0.01 else "",
    )
    return replace(other, array=result, affine=volume.affine)


def _same_grid(volume: Volume, other: Volume) -> bool:
    """Whether no voxel lies farther from its counterpart than headers are inexact."""
    if volume.array.shape != other.array.shape:
        return False
    last = np.array(volume.grid_shape[::-1]) - 1.0
    corners = np.array(np.meshgrid(*[(0.0, end) for end in last], indexing="ij")).reshape(3, -1)
    placed = np.linalg.inv(volume.affine) @ other.affine @ np.vstack([corners, np.ones(8)])
    apart: npt.NDArray[np.float64] = np.abs(placed[:3] - corners)
    return bool(apart.max() <= GRID_TOLERANCE)
