"""Where a volume looks most like the support cases: made-up bodies, moved by known steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from OFLSAM2Core.methods.ofl_sam2.cubic_grid import CubicGrid
from OFLSAM2Core.methods.ofl_sam2.likest_place import COARSER, FINER, REACH, likest_place
from OFLSAM2Core.methods.ofl_sam2.self_similarity import self_similarity

GRID = CubicGrid(1.0, (16, 24, 32))


def _world(seed: int = 1) -> Tensor:
    """A texture, larger than what is searched: (D, H, W), in cells of GRID."""
    noise = np.random.default_rng(seed).normal(size=(80, 112, 144)).astype(np.float32)
    return torch.from_numpy(ndimage.gaussian_filter(noise, 3.0))


def _around(world: Tensor, middle: tuple[int, ...], grid: CubicGrid) -> Tensor:
    """(1, D, H, W) on a grid around a place, counted from the world's middle."""
    sides = [round(side * grid.spacing) for side in grid.shape]
    first = [(n - side) // 2 + at for n, side, at in zip(world.shape, sides, middle, strict=True)]
    cut = world[tuple(slice(a, a + side) for a, side in zip(first, sides, strict=True))]
    return torch.nn.functional.avg_pool3d(cut[None], round(grid.spacing))


@pytest.mark.parametrize("moved", [(0, 0, 0), (8, -20, 24), (-12, 16, -28)])
def test_the_likest_place_is_where_the_cases_are_from(moved: tuple[int, int, int]) -> None:
    world = _world()
    case = _around(world, moved, GRID)

    def show(grid: CubicGrid) -> tuple[Tensor, Tensor]:
        assert grid.spacing == FINER * GRID.spacing
        reached = [side * grid.spacing for side in grid.shape]
        assert reached == [REACH * side for side in GRID.shape]
        return 3 + 2 * _around(world, (0, 0, 0), grid), torch.ones(grid.shape)

    found = likest_place(GRID, show, case[None], self_similarity)
    assert found.offset == tuple(float(step) for step in moved)
    assert (found.unliker > 2) == (moved != (0, 0, 0))


def test_several_cases_look_for_one_place_together() -> None:
    world = _world()
    cases = torch.stack([_around(world, (4, 8, -12), GRID), _around(_world(2), (0, 0, 0), GRID)])

    def show(grid: CubicGrid) -> tuple[Tensor, Tensor]:
        return _around(world, (0, 0, 0), grid), torch.ones(grid.shape)

    assert likest_place(GRID, show, cases, self_similarity).offset == (4.0, 8.0, -12.0)


def test_a_place_that_the_volume_does_not_show_is_not_compared() -> None:
    world = _world()
    case = _around(world, (0, 0, 24), GRID)

    def show(grid: CubicGrid) -> tuple[Tensor, Tensor]:
        there = torch.ones(grid.shape)
        there[..., grid.shape[-1] // 2 + 8 :] = 0  # Ends beyond the middle, before the case does.
        return _around(world, (0, 0, 0), grid), there

    found = likest_place(GRID, show, case[None], self_similarity)
    assert found.offset[2] <= 16 - COARSER
