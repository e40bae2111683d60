"""Where around a place a volume looks most like the support cases.

Registration begins where something was drawn, and finds the likest place nearby. Where something
else was drawn, as a coil that no support case shows, the structures are out of its reach. So the
cases are moved to all places around, as they are, neither turned nor bent: matching of templates,
on a coarse grid, which takes a second (docs/decisions/0025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.ofl_sam2.cubic_grid import CubicGrid, Point

FINER, COARSER = 2, 4
"""Bodies are looked at on a grid of so many cells of the cases', and compared on one of so many."""

REACH = 3
"""How many times the cases' grid is searched, along each axis."""

MOST_HIDDEN = 0.25
"""Of what could be compared at the best place for that: less is not compared at all. At an edge of
the volume a few cells are easily alike."""


class LikestPlace(NamedTuple):
    """offset: mm from the place around which was searched. unliker: how many times less the volume
    looks like the cases there than here, at least 1."""

    offset: Point
    unliker: float


def likest_place(
    grid: CubicGrid,
    show: Callable[[CubicGrid], tuple[Tensor, Tensor]],
    images: Tensor,
    looks: Callable[[Tensor], Tensor],
) -> LikestPlace:
    """grid: of the cases. show: a volume's grey values (1, D, H, W) on a grid around the place, and
    which cells lie in it, (D, H, W). images: of the cases, (S, 1, D, H, W). looks: what is compared
    of images (B, 1, D, H, W), (B, C, D, H, W)."""
    to_coarser = COARSER // FINER
    sides = _times(grid.coarser(COARSER).shape, REACH * to_coarser)
    image, inside = show(CubicGrid(grid.spacing * FINER, sides))
    cases = F.avg_pool3d(looks(F.avg_pool3d(images, FINER)), to_coarser)
    there = F.avg_pool3d(inside.float()[None, None].to(cases), to_coarser)
    volume = F.avg_pool3d(looks(image[None].to(images)), to_coarser)
    unlike = _unlike(volume, there, cases)
    best = torch.tensor(torch.unravel_index(unlike.argmin(), unlike.shape))
    here = torch.tensor(unlike.shape) // 2
    offset = (best - here) * grid.spacing * COARSER
    slices, rows, columns = offset.tolist()
    unliker = unlike[tuple(here)] / unlike[tuple(best)].clamp(min=1e-6)
    return LikestPlace((slices, rows, columns), max(float(unliker), 1.0))


def _unlike(volume: Tensor, there: Tensor, cases: Tensor) -> Tensor:
    """Mean square difference of the cases, moved to every place at which they lie within the
    volume's grid, over the cells that are `there`: (D', H', W'), infinite where there are few.

    volume: (1, C, D, H, W). there: share of each cell that lies in the volume, (1, 1, D, H, W).
    cases: (S, C, d, h, w).
    """
    whole = torch.ones_like(cases[:1, :1])
    compared = F.conv3d(there, whole)
    squares = (there * volume.square()).sum(dim=1, keepdim=True)
    apart = (
        F.conv3d(squares, whole)
        - 2 * F.conv3d(there * volume, cases)
        + F.conv3d(there, cases.square().sum(dim=1, keepdim=True))
    )
    unlike = (apart.mean(dim=1) / compared[:, 0].clamp(min=1e-6))[0] / cases.shape[1]
    enough = compared[0, 0] >= (1 - MOST_HIDDEN) * compared.max()
    return torch.where(enough, unlike, torch.inf)


def _times(shape: tuple[int, int, int], factor: int) -> tuple[int, int, int]:
    slices, rows, columns = (factor * side for side in shape)
    return slices, rows, columns
