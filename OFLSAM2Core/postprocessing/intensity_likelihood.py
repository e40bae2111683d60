"""The intensities of structures in this volume, from what was predicted in it.

No image has quite the intensities of the support. A predicted structure gives two histograms of the
volume itself: intensities inside it, and in the background beside it. The ratio of the two is the
likelihood ratio of a voxel near the structure (naive Bayes with two classes, the simplest
self-training on the target). It moves thin organs to where their voxels are, and has no effect
where both histograms are alike (docs/decisions/0015).
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
"""Probability, as a byte (0.3), above which a pixel may belong to the structure. The background is
taken from around these pixels."""

BESIDE = 3
"""Distance, in pixels within the slice, up to which background is taken."""

BINS = 64
"""Bins of a histogram, each with equally many voxels, so that unit, scale and curve of the
intensities do not matter."""

BLURRED = 2.0
"""Standard deviation, in bins, of the Gaussian that smooths histograms, so that single voxels do
not decide."""

RARE = 0.02
"""How much of each histogram is mixed into the other: no intensity makes a structure more than
1 / RARE times more probable, or less likely."""

_LOOKED_AT = 100_000
"""At most so many voxels are used to find the edges of the bins."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The likelihood ratios of the voxels near one structure.

    box: a part of the volume. near: the voxels of the box that lie near the structure. ratios:
    logarithm of the likelihood ratio of each of them, (voxels,).
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
