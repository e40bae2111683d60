"""The region of a volume that holds the structures: its slices, and its middle within them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.methods.ofl_sam2_atlas.config import PRESENT
from OFLSAM2Core.slice_position.regression import PositionScale


@dataclass(frozen=True)
class Region:
    """first, stop: slices, not clipped to the volume. centre: row and column in slice pixels, 0 is
    the upper edge of the first. scale: slice positions."""

    first: int
    stop: int
    centre: tuple[float, float]
    scale: PositionScale


def region_of(prior: AtlasPrior) -> Region | None:
    """The region in which the prior has structures; None where it has none anywhere."""
    most = prior.shares.amax(dim=0).numpy()
    present = most > min(PRESENT, 0.5 * float(most.max()))
    if not present.any() or most.max() <= 0:
        return None
    low, high = _edges(present, prior)
    slice_step, row_step, column_step = prior.slicing.steps
    first, stop = round(low[0] / slice_step + 0.5), round(high[0] / slice_step + 0.5)
    stop = max(stop, first + 1)
    centre = (
        (low[1] + high[1]) / 2 / row_step + 0.5,
        (low[2] + high[2]) / 2 / column_step + 0.5,
    )
    half = max((stop - 1 - first) / 2, 1.0) * slice_step
    return Region(first, stop, centre, PositionScale((first + stop - 1) / 2 * slice_step, half))


def region_of_labels(labels: npt.NDArray, spacing: float) -> Region:
    """The region of a support case, from its labels as canonical slices (S, H, W)."""
    there = labels > 0
    slices = np.flatnonzero(there.any(axis=(1, 2)))
    rows = np.flatnonzero(there.any(axis=(0, 2)))
    columns = np.flatnonzero(there.any(axis=(0, 1)))
    return Region(
        int(slices[0]),
        int(slices[-1]) + 1,
        ((rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2),
        PositionScale.of_labels(labels, spacing),
    )


def _edges(
    present: npt.NDArray[np.bool_], prior: AtlasPrior
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """mm from the middle of the volume's first voxel, along slices, rows and columns."""
    low, high = np.zeros(3), np.zeros(3)
    half = prior.grid.half.numpy()
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        cells = np.flatnonzero(present.any(axis=others))
        edges = np.array([cells[0] - 0.5, cells[-1] + 0.5]) * prior.grid.spacing
        low[axis], high[axis] = edges - half[axis] + prior.middle[axis]
    return low, high
