"""Volumes and labels on a grid of cubic cells, as methods that work in 3D see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.methods.common.sliced_volume import SlicedVolume


@dataclass(frozen=True)
class Coverage:
    """Planes of labels (S, H, W): where each value is, (N, H, W) of a slice."""

    labels: npt.NDArray
    values: Sequence[int]

    def __call__(self, index: int) -> npt.NDArray:
        return np.stack([self.labels[index] == value for value in self.values])


def grey_on_grid(grid: IsotropicGrid, volume: SlicedVolume, middle: Point) -> tuple[Tensor, Tensor]:
    """Grey values in [0, 1], (1, D, H, W), and which cells lie in the volume, (D, H, W)."""
    return grid.show(lambda index: volume.prepared.grey(index)[:1], volume.slicing, middle)


def middle_of(volume: SlicedVolume) -> Point:
    """The middle of a whole volume, mm from the middle of its first voxel."""
    slice_, row, column = (
        (side - 1) / 2 * step
        for side, step in zip(volume.slicing.shape, volume.slicing.steps, strict=True)
    )
    return slice_, row, column
