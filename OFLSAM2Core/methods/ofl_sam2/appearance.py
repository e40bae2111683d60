"""How bright structures are in this volume, as what was drawn in it shows.

Slices are read by what the support has taught, and no image looks quite like the support. Once a
structure has been drawn, the volume itself shows how bright it is and how bright the background
beside it: two histograms, and a voxel near the structure is the likelier to belong to it the more
often its intensity is found inside than beside it. That is naive Bayes with two classes, and
self-training on the target in its simplest form. It draws thin organs to where their voxels are,
and tells nothing where both sides are alike (docs/decisions/0015).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from OFLSAM2Core.metrics import bounding_box

MAY_BE = 77
"""Byte (a probability of 0.3) above which a pixel may be the structure's, and around which the
background is looked at."""

BESIDE = 3
"""Pixels within the slice: how far beside it."""

BINS = 64
"""Of equally many voxels each, so that it does not matter in what unit, on what scale or through
what curve intensities come."""

BLURRED = 2.0
"""Bins, deviation: single voxels are not to speak for themselves."""

RARE = 0.02
"""How much of each histogram is mixed into the other: no intensity makes a structure more than
1 / RARE times likelier, or less likely."""

_LOOKED_AT = 100_000
"""Voxels from which the edges of the bins are found."""

Mask = npt.NDArray[np.bool_]


def evidence(
    values: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8], stack: npt.NDArray
) -> Iterator[tuple[tuple[slice, ...], Mask, npt.NDArray[np.float32]]]:
    """Of each structure: a box, the voxels in it that are near the structure (a mask of the box),
    and of these the logarithm of how much likelier their intensity makes it, (voxels,).

    values: probabilities of structures in bytes, (N, slices, rows, columns). background: the
    background's share of each voxel, likewise, (slices, rows, columns). stack: their intensities;
    any unit. Of a structure that may be nowhere there are no voxels.
    """
    for own in values:
        may_be = own > MAY_BE
        box = bounding_box(may_be, BESIDE)
        inside = may_be[box]
        # Filters go axis by axis, so this is faster than a dilation.
        size = (1, 2 * BESIDE + 1, 2 * BESIDE + 1)
        near = ndimage.maximum_filter(inside, size, mode="constant") if inside.any() else inside
        weights = own[box][near], background[box][near]
        yield box, near, _log_ratios(stack[box][near], *weights)


def _log_ratios(
    intensities: npt.NDArray, inside: npt.NDArray[np.uint8], beside: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Of voxels' intensities; `inside` and `beside` weigh them. All (voxels,)."""
    total = [float(weights.sum()) for weights in (inside, beside)]
    if min(total) == 0:
        return np.zeros(len(intensities), np.float32)
    some = intensities[:: max(1, len(intensities) // _LOOKED_AT)]
    edges = np.quantile(some, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, intensities)
    one, other = (
        ndimage.gaussian_filter1d(np.bincount(bins, weights, BINS) / all_, BLURRED, mode="nearest")
        for weights, all_ in zip((inside, beside), total, strict=True)
    )
    both = RARE * (one + other) + np.finfo(np.float32).tiny
    return np.log((one + both) / (other + both)).astype(np.float32)[bins]
