"""Parts of a slice: around a point, around the body, and how large they are."""

from __future__ import annotations

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.preprocessing.letterbox import Box


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
    """The longer side of a slice, or of a region of it, in mm."""
    rows, columns = slicing.slice_shape
    top, bottom, left, right = region or (0, rows, 0, columns)
    row_step, column_step = slicing.spacing_in_plane
    return max((bottom - top) * row_step, (right - left) * column_step)


def _middle(box: Box) -> tuple[float, float]:
    top, bottom, left, right = box
    return (top + bottom) / 2, (left + right) / 2
