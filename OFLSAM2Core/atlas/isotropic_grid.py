"""A coarse grid of cubic cells around a point of a volume, on which volumes are compared in 3D."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.data.slice_geometry import SliceGeometry

CELLS = 250_000
"""About as many as a grid has: registering three cases to a volume then takes some seconds."""

MULTIPLE = 8
"""The number of cells along each side is a multiple of this: grids are averaged over blocks of 2
and 4 cells."""

Point = tuple[float, float, float]
"""mm from the middle of a volume's first voxel, along slices, rows and columns."""


@dataclass(frozen=True)
class IsotropicGrid:
    """spacing: side of a cell in mm. shape: cells along slices, rows and columns."""

    spacing: float
    shape: tuple[int, int, int]

    @classmethod
    def holding(cls, extent: Sequence[float], finest: float, cells: float = CELLS) -> IsotropicGrid:
        """A grid of at least `extent` mm along slices, rows and columns, in about `cells` cells,
        none smaller than `finest` mm."""
        spacing = max(finest, math.prod(extent) ** (1 / 3) / cells ** (1 / 3))
        return cls.of_spacing(extent, spacing)

    @classmethod
    def of_spacing(cls, extent: Sequence[float], spacing: float) -> IsotropicGrid:
        """A grid of at least `extent` mm along slices, rows and columns."""
        sides = [math.ceil(each / spacing / MULTIPLE) * MULTIPLE for each in extent]
        return cls(spacing, (sides[0], sides[1], sides[2]))

    @property
    def half(self) -> Tensor:
        """mm from the grid's middle to the middle of its last cell, (3,)."""
        return (torch.tensor(self.shape, dtype=torch.float32) - 1) / 2 * self.spacing

    def coarser(self, times: int) -> IsotropicGrid:
        """The grid of blocks of `times` cells along each side."""
        slices, rows, columns = (side // times for side in self.shape)
        return IsotropicGrid(self.spacing * times, (slices, rows, columns))

    def points(self, device: torch.device | str = "cpu") -> Tensor:
        """Where the middle of each cell lies, mm from the grid's middle: (D, H, W, 3)."""
        axes = [
            torch.linspace(-h, h, n) for h, n in zip(self.half.tolist(), self.shape, strict=True)
        ]
        return _lattice(axes).to(device)

    def at(self, maps: Tensor, points: Tensor, beyond: str = "border") -> Tensor:
        """Maps (B, C, D, H, W) on this grid at points (B, ..., 3) of three dimensions, in mm from
        its middle: (B, C, ...). beyond: the grid, what is at its "border" goes on, or "zeros"."""
        places = (points / self.half.to(points)).flip(-1)
        return F.grid_sample(maps, places, padding_mode=beyond, align_corners=True)

    def show(
        self,
        plane: Callable[[int], npt.NDArray],
        slicing: SliceGeometry,
        middle: Point,
    ) -> tuple[Tensor, Tensor]:
        """A volume's planes on the grid around `middle`: (C, D, H, W), averaged over the voxels
        that a cell covers, and which cells lie in the volume, (D, H, W).

        plane: (C, rows, columns) of a canonical slice's index.
        """
        sides, first, last, blocks = slicing.shape, [], [], []
        for centre, half, side, step in zip(
            middle, self.half.tolist(), sides, slicing.steps, strict=True
        ):
            reach = half + 2 * self.spacing
            low = min(max(math.floor((centre - reach) / step), 0), side - 1)
            high = min(max(math.ceil((centre + reach) / step) + 1, low + 1), side)
            first.append(low)
            last.append(high)
            blocks.append(min(max(round(self.spacing / step), 1), high - low))
        rows, columns = (slice(a, b) for a, b in zip(first[1:], last[1:], strict=True))
        planes = [
            F.avg_pool2d(_tensor(plane(index)[:, rows, columns]), (blocks[1], blocks[2]))
            for index in range(first[0], last[0])
        ]
        averaged = F.avg_pool3d(torch.stack(planes, dim=1), (blocks[0], 1, 1))
        places, inside = [], []
        for axis, (side, step) in enumerate(zip(sides, slicing.steps, strict=True)):
            offsets = torch.linspace(-1, 1, self.shape[axis]) * self.half[axis]
            voxels = (offsets + middle[axis]) / step
            inside.append((voxels >= -0.5) & (voxels <= side - 0.5))
            # Voxels count from the middle of the first, blocks from the middle of theirs.
            own = (voxels - first[axis] - (blocks[axis] - 1) / 2) / blocks[axis]
            places.append(2 * own / max(averaged.shape[axis + 1] - 1, 1) - 1)
        grid = _lattice(places).flip(-1)
        shown = F.grid_sample(averaged[None], grid[None], padding_mode="border", align_corners=True)
        there = inside[0][:, None, None] & inside[1][:, None] & inside[2]
        return shown[0], there

    def on_slices(
        self,
        maps: Tensor,
        slicing: SliceGeometry,
        middle: Point,
        index: int,
        box: tuple[int, int, int, int],
    ) -> Tensor:
        """Maps (C, D, H, W) on the grid around `middle`, on a part of a canonical slice: (C, rows,
        columns), zero beyond the grid. box: rows from, to, columns from, to."""
        top, bottom, left, right = box
        voxels = (
            torch.tensor([float(index)]),
            torch.arange(top, bottom).float(),
            torch.arange(left, right).float(),
        )
        axes = [
            own * step - centre
            for own, step, centre in zip(voxels, slicing.steps, middle, strict=True)
        ]
        return self.at(maps[None], _lattice(axes)[None].to(maps), "zeros")[0, :, 0]


def _lattice(axes: Sequence[Tensor]) -> Tensor:
    """All combinations of three axes' places, (D, H, W, 3)."""
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _tensor(plane: npt.NDArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(plane, dtype=np.float32))
