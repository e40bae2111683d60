"""Where a slice lies in the network's square image, and the way there and back.

A slice is resized to whole network pixels and padded to a square; both grids count pixel
centres at half pixels, so the way back is aligned to the way there whatever the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Box = tuple[int, int, int, int]
"""First row, row after the last, first column, column after the last."""

_Maps = TypeVar("_Maps", "torch.Tensor", npt.NDArray[np.float32])


@dataclass(frozen=True)
class Letterbox:
    """One way to put slices of `slice_shape` into a `size` x `size` network image.

    region: the part of the slice that is taken, in slice pixels.
    box: where it lies, in network pixels; around it is padding.
    """

    slice_shape: tuple[int, int]
    region: Box
    box: Box
    size: int

    @classmethod
    def fit(
        cls,
        slice_shape: tuple[int, int],
        spacing: tuple[float, float],
        pixel: float,
        size: int,
        region: Box | None = None,
    ) -> Letterbox:
        """Centre the region (the whole slice, by default) at `pixel` mm a network pixel.

        spacing: mm per row and column step of the slice. The region must fit; what is larger
        by less than a pixel is made to.
        """
        region = region or (0, slice_shape[0], 0, slice_shape[1])
        sides = (region[1] - region[0], region[3] - region[2])
        scaled = [
            min(max(round(side * step / pixel), 1), size)
            for side, step in zip(sides, spacing, strict=True)
        ]
        top, left = (size - scaled[0]) // 2, (size - scaled[1]) // 2
        return cls(slice_shape, region, (top, top + scaled[0], left, left + scaled[1]), size)

    def finer(self, times: int) -> Letterbox:
        """The same in an image of so many times as many pixels along a side."""
        top, bottom, left, right = (times * edge for edge in self.box)
        return Letterbox(
            self.slice_shape, self.region, (top, bottom, left, right), times * self.size
        )

    def to_network(self, planes: npt.NDArray) -> npt.NDArray[np.float32]:
        """(N, H, W) slice planes to (N, size, size), zero around the content.

        Averages over the pixels where it gets smaller, interpolates linearly where it gets
        larger.
        """
        top, bottom, left, right = self.region
        part = np.ascontiguousarray(planes[:, top:bottom, left:right], dtype=np.float32)
        row, row_end, column, column_end = self.box
        result = np.zeros((len(planes), self.size, self.size), np.float32)
        result[:, row:row_end, column:column_end] = _resized(
            part, (row_end - row, column_end - column)
        )
        return result

    def point_on_slice(self, row: float, column: float) -> tuple[float, float]:
        """From network pixels to slice pixels; in both 0 is the upper edge of the first."""
        return _between(self.box, self.region, row, column)

    def point_in_network(self, row: float, column: float) -> tuple[float, float]:
        """The way back, also of points outside the region."""
        return _between(self.region, self.box, row, column)

    def to_grid(self, maps: _Maps) -> _Maps:
        """(N, s, s) network maps at any resolution s to (N, H, W) on the slice, zero outside the
        region. Arrays give an array, tensors a tensor on the same device."""
        scale = maps.shape[-1] / self.size
        box = [edge * scale for edge in self.box]
        if any(edge != int(edge) for edge in box):
            return self.to_grid(_resized(maps, (self.size, self.size)))
        row, row_end, column, column_end = (int(edge) for edge in box)
        top, bottom, left, right = self.region
        part = _resized(maps[:, row:row_end, column:column_end], (bottom - top, right - left))
        if part.shape[1:] == self.slice_shape:
            return part
        shape = (len(part), *self.slice_shape)
        result = (
            np.zeros(shape, part.dtype) if isinstance(part, np.ndarray) else part.new_zeros(shape)
        )
        result[:, top:bottom, left:right] = part
        return result


def _between(here: Box, there: Box, row: float, column: float) -> tuple[float, float]:
    """A point of one box, or beside it, at the same place of the other."""
    top, bottom, left, right = here
    row_from, row_to, column_from, column_to = there
    return (
        row_from + (row - top) * (row_to - row_from) / (bottom - top),
        column_from + (column - left) * (column_to - column_from) / (right - left),
    )


def _resized(planes: _Maps, shape: tuple[int, int]) -> _Maps:
    if not isinstance(planes, np.ndarray):
        return _resized_tensor(planes, shape)
    import torch

    return _resized_tensor(torch.from_numpy(np.ascontiguousarray(planes)), shape).numpy()


def _resized_tensor(planes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    import torch

    if tuple(planes.shape[-2:]) == shape:
        return planes
    # Without `antialias` every output pixel reads 2 x 2 inputs, however many it covers.
    smaller = shape[0] < planes.shape[-2] or shape[1] < planes.shape[-1]
    return torch.nn.functional.interpolate(
        planes[None], size=shape, mode="bilinear", align_corners=False, antialias=smaller
    )[0]
