"""Whether an ROI crop around the structures is shown besides whole slices, and how large it is.

Hearts fill a third of a cine MRI's width, the organs of a neck a quarter of a planning CT's; shown
whole, three quarters of what the network sees is something else, and a small organ is one position
of its features. So the support says how large a square is wanted; where it lies in a new volume is
where structures were predicted in whole slices. What fills most of its slices already needs no ROI
crop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.preprocessing.letterbox import Box

ROOM = 1.6
"""Side of the ROI crop, of the largest extent of the structures in the support: room for larger
ones, for what lies beside them, and for not finding their middle exactly (34 hearts: off by 0.03 of
the side, 0.13 at most)."""

WORTHWHILE = 0.75
"""Of the slices' longest side: an ROI crop that is larger than this is not worth looking for."""


def roi_side(labels: Sequence[npt.NDArray], slicings: Sequence[SliceGeometry]) -> float | None:
    """Side of the ROI crop in mm; None where whole slices are enough.

    labels: of each support case, canonical slices (S, H, W), 0 where nothing is.
    """
    extent = max(
        max(_extent_of(own, slicing)) for own, slicing in zip(labels, slicings, strict=True)
    )
    side = ROOM * extent
    return side if side < WORTHWHILE * max(longest_side(each) for each in slicings) else None


def bbox_center(labels: npt.NDArray) -> tuple[float, float]:
    """Row and column in the middle between all structures' edges, in pixels: 0 is the upper edge
    of the first, not its middle."""
    (top, bottom), (left, right) = bbox(labels)
    return _middle((top, bottom, left, right))


def crop_around(centre: tuple[float, float], side: float, slicing: SliceGeometry) -> Box:
    """The ROI crop's pixels in a slice. It is moved where it would leave the slice; a slice that is
    narrower is shown in its whole width."""
    edges = []
    steps = slicing.spacing_in_plane
    for middle, length, step in zip(centre, slicing.slice_shape, steps, strict=True):
        wanted = min(max(round(side / step), 1), length)
        first = min(max(round(middle - wanted / 2), 0), length - wanted)
        edges += [first, first + wanted]
    return edges[0], edges[1], edges[2], edges[3]


def foreground_crop(box: Box, side: float, slicing: SliceGeometry) -> Box:
    """The ROI crop of at most `side` mm around the middle of a box, or a larger one that holds
    it."""
    at_most = side - max(slicing.spacing_in_plane) / 2  # A square is rounded to whole pixels.
    return crop_around(_middle(box), max(at_most, longest_side(slicing, box)), slicing)


def longest_side(slicing: SliceGeometry, region: Box | None = None) -> float:
    """Of a slice or a region of it, in mm."""
    rows, columns = slicing.slice_shape
    top, bottom, left, right = region or (0, rows, 0, columns)
    row_step, column_step = slicing.spacing_in_plane
    return max((bottom - top) * row_step, (right - left) * column_step)


def _middle(box: Box) -> tuple[float, float]:
    top, bottom, left, right = box
    return (top + bottom) / 2, (left + right) / 2


def _extent_of(labels: npt.NDArray, slicing: SliceGeometry) -> tuple[float, float]:
    """Along rows' and columns' direction in mm, of all structures in all slices together."""
    (top, bottom), (left, right) = bbox(labels)
    row_step, column_step = slicing.spacing_in_plane
    return (bottom - top) * row_step, (right - left) * column_step


def bbox(labels: npt.NDArray) -> list[tuple[int, int]]:
    """First and behind the last, of rows and of columns with structures, in any of the slices."""
    box = bounding_box(np.asarray((labels > 0).any(axis=0)))
    return [each.indices(length)[:2] for each, length in zip(box, labels.shape[1:], strict=True)]
