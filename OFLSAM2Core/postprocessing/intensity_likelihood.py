"""How bright structures are in this volume, as what was predicted in it shows.

Slices are predicted by what the support has taught, and no image looks quite like the support. Once
a structure has been predicted, the volume itself shows how bright it is and how bright the
background beside it: two histograms, and a voxel near the structure is the more likely to belong to
it the more often its intensity is found inside than beside it. That is naive Bayes with two
classes, and self-training on the target in its simplest form. It draws thin organs to where their
voxels are, and tells nothing where both sides are alike (docs/decisions/0015).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from OFLSAM2Core.data.overlap import bounding_box

MAY_BE = 77
"""Byte (a probability of 0.3) above which a pixel may be the structure's, and around which the
background is looked at."""

BESIDE = 3
"""Pixels within the slice: how far beside it."""

BINS = 64
"""Bins of a histogram, each with equally many voxels, so that it does not matter in what unit, on
what scale or through what curve intensities come."""

BLURRED = 2.0
"""Bins, deviation: single voxels are not to speak for themselves."""

RARE = 0.02
"""How much of each histogram is mixed into the other: no intensity makes a structure more than
1 / RARE times more probable, or less likely."""

_LOOKED_AT = 100_000
"""Voxels from which the edges of the bins are found."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the intensities near one structure say about it.

    box: a part of the volume. near: the voxels of the box that lie near the structure. ratios:
    logarithm of how much more probable the intensity of each of them makes the structure,
    (voxels,).
    """

    structure: int
    box: tuple[slice, ...]
    near: Mask
    ratios: npt.NDArray[np.float32]


def evidence(
    values: npt.NDArray[np.uint8],
    background: npt.NDArray[np.uint8],
    stack: npt.NDArray,
    touched: Sequence[Sequence[int]],
) -> Iterator[Evidence]:
    """What intensities say of each structure.

    values: probabilities of structures in bytes, (N, slices, rows, columns). background: the
    background's share of each voxel, likewise, (slices, rows, columns). stack: their intensities;
    any unit. touched: as `adjacent_structures` gives it; structures that touch lie in one
    background.
    """
    for together in _groups(touched):
        may_be = values[together] > MAY_BE
        box = bounding_box(np.asarray(may_be.any(axis=0)), BESIDE)
        each_near = [_grown(mask[box]) for mask in may_be]
        around = np.asarray(np.any(each_near, axis=0))
        if not background[box][around].any():
            continue
        bins = _bins(stack[box][around])
        beside = _histogram(bins, background[box][around])
        for structure, near in zip(together, each_near, strict=True):
            inside = _histogram(bins, values[structure][box][around])
            both = RARE * (inside + beside)
            ratios = np.log((inside + both) / (beside + both)).astype(np.float32)
            yield Evidence(structure, box, near, ratios[bins[near[around]]])


def _groups(touched: Sequence[Sequence[int]]) -> list[list[int]]:
    """Structures that touch, directly or by way of others."""
    graph = np.array([[other in own for other in range(len(touched))] for own in touched])
    count, group = connected_components(graph, directed=False)
    return [np.flatnonzero(group == each).tolist() for each in range(count)]


def _grown(mask: Mask) -> Mask:
    """Within the slice. Filters go axis by axis, so this is faster than a dilation."""
    size = (1, 2 * BESIDE + 1, 2 * BESIDE + 1)
    return ndimage.maximum_filter(mask, size, mode="constant") if mask.any() else mask


def _bins(intensities: npt.NDArray) -> npt.NDArray[np.intp]:
    """The number of each intensity's bin, (voxels,)."""
    some = intensities[:: max(1, len(intensities) // _LOOKED_AT)]
    return np.searchsorted(np.quantile(some, np.linspace(0, 1, BINS + 1)[1:-1]), intensities)


def _histogram(
    bins: npt.NDArray[np.intp], weights: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float64]:
    """Shares of all weight, (BINS,)."""
    counts = np.bincount(bins, weights, BINS) + np.finfo(np.float32).tiny
    return ndimage.gaussian_filter1d(counts / counts.sum(), BLURRED, mode="nearest")
