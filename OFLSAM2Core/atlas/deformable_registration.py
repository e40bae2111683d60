"""Registration of support cases to a volume: where each place of it lies in each of them.

First an affine map, then a smooth displacement, both found by gradient descent on the difference
between their descriptors. In the manner of the instance optimisation of ConvexAdam (Siebert et al.,
IEEE TMI 2024): displacements on a coarse grid, averaged twice so that they are smooth, and held
together by diffusion.

What was predicted in the volume says where to begin, and nothing else: held to it as well, cases
repeat what is wrong in it (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid

DIFFUSION = 0.05
"""Weight of the diffusion regulariser, which makes neighbouring displacements agree. 0.5 to 0.025
were tried on five volumes of each set, by registration alone (docs/experiments/atlas-prior.md)."""

TURNED = 0.02
"""Weight of the penalty that holds an affine map to what it was at first."""


@dataclass(frozen=True)
class _Stage:
    """coarser: by how many times the grid is coarser on which volumes are compared. steps: of
    gradient descent. control: cells from one displacement to the next. rate: learning rate, in
    cells or, for affine maps, as share of the grid."""

    coarser: int
    steps: int
    rate: float
    control: int = 0


@dataclass(frozen=True)
class Schedule:
    """Stages of the affine map, and of displacements."""

    affine: tuple[_Stage, _Stage]
    smooth: tuple[_Stage, _Stage]

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in (*self.affine, *self.smooth))


# The schedule that all figures of docs/experiments/atlas-prior.md are of.
THOROUGH = Schedule(
    (_Stage(4, 60, 0.02), _Stage(2, 20, 0.01)), (_Stage(4, 40, 1.0, 8), _Stage(2, 40, 0.5, 4))
)

QUICK = Schedule(
    (_Stage(4, 40, 0.03), _Stage(2, 10, 0.01)), (_Stage(4, 40, 1.0, 8), _Stage(2, 20, 0.5, 4))
)
"""Two thirds of the time for the same Dice, by leave-one-out among the support cases."""

STEPS = THOROUGH.steps


def register(
    grid: IsotropicGrid,
    volume: Tensor,
    inside: Tensor,
    cases: Tensor,
    starts: Tensor,
    on_step: Callable[[int], None],
    affine: Tensor | None = None,
    schedule: Schedule = THOROUGH,
) -> Tensor:
    """Where each cell of a volume lies in each of S cases, in mm from the middle of their grids:
    (S, D, H, W, 3).

    volume: what it looks like, (1, C, D, H, W), or (S, C, D, H, W), another one for each case.
    inside: which cells lie in it, (D, H, W) in [0, 1]. cases: what they look like, (S, C, D, H, W).
    starts: mm to be added to a point of the volume's grid at first, (S, 3). on_step: called before
    each step; raises what it raises. affine: as `coarse_affine` finds it, (S, 3, 4), where that has
    been done already. schedule: how many steps, on which grids.
    """
    descent = _Descent(on_step)
    dissimilarity = {
        times: _Dissimilarity.of(times, grid, volume, inside, cases)
        for times in {stage.coarser for stage in (*schedule.affine, *schedule.smooth)}
    }
    with torch.enable_grad():
        stages = schedule.affine if affine is None else schedule.affine[1:]
        if affine is None:
            affine = _moved(starts)
        for stage in stages:
            reach = float(grid.half.max())
            affine = _affine(stage, descent, dissimilarity[stage.coarser], affine, reach)
        displacement = starts.new_zeros(len(starts), 3, *grid.shape)
        for stage in schedule.smooth:
            coarse = dissimilarity[stage.coarser]
            displacement = _smooth(stage, descent, coarse, affine, displacement, grid)
    return mapped(grid.points(starts.device), affine) + displacement.permute(0, 2, 3, 4, 1)


def coarse_affine(
    grid: IsotropicGrid,
    volume: Tensor,
    inside: Tensor,
    cases: Tensor,
    starts: Tensor,
    on_step: Callable[[int], None],
    schedule: Schedule = QUICK,
) -> Tensor:
    """The first stage alone, quick: affine maps (S, 3, 4) from the volume's grid to the cases'.
    Arguments as of `register`."""
    stage = schedule.affine[0]
    dissimilarity = _Dissimilarity.of(stage.coarser, grid, volume, inside, cases)
    with torch.enable_grad():
        reach = float(grid.half.max())
        return _affine(stage, _Descent(on_step), dissimilarity, _moved(starts), reach)


def _moved(starts: Tensor) -> Tensor:
    affine = torch.eye(3, 4).repeat(len(starts), 1, 1).to(starts)
    affine[:, :, 3] = starts
    return affine


@dataclass(frozen=True)
class _Dissimilarity:
    """How much a volume and the cases registered to it differ, summed over the cases, each of which
    is registered by itself."""

    grid: IsotropicGrid
    volume: Tensor
    inside: Tensor
    cases: Tensor

    @classmethod
    def of(
        cls, times: int, grid: IsotropicGrid, volume: Tensor, inside: Tensor, cases: Tensor
    ) -> _Dissimilarity:
        """On the grid that is so many times coarser."""
        volume, inside, cases = (
            F.avg_pool3d(each, times) for each in (volume, inside[None], cases)
        )
        return cls(grid.coarser(times), volume, inside[0], cases)

    def __call__(self, points: Tensor) -> Tensor:
        """points: (S, D, H, W, 3), where the volume's cells lie in the cases."""
        apart = (self.grid.at(self.cases, points) - self.volume).square().mean(dim=1)
        return (apart * self.inside).sum() / self.inside.sum().clamp(min=1)


def _affine(
    stage: _Stage, descent: _Descent, dissimilarity: _Dissimilarity, start: Tensor, reach: float
) -> Tensor:
    """Better affine maps (S, 3, 4), from those at the start. reach: mm that count as one."""
    points = dissimilarity.grid.points(start.device)
    turned = torch.zeros_like(start[:, :, :3], requires_grad=True)
    moved = torch.zeros_like(start[:, :, 3], requires_grad=True)

    def own() -> Tensor:
        return start + torch.cat([turned, reach * moved[:, :, None]], dim=2)

    for _ in descent.steps(stage.steps, stage.rate, [turned, moved]):
        (dissimilarity(mapped(points, own())) + TURNED * turned.square().sum()).backward()
    return own().detach()


def _smooth(
    stage: _Stage,
    descent: _Descent,
    dissimilarity: _Dissimilarity,
    affine: Tensor,
    start: Tensor,
    grid: IsotropicGrid,
) -> Tensor:
    """Better displacements (S, 3, D, H, W) in mm, besides affine maps, from those at the start."""
    points = mapped(dissimilarity.grid.points(start.device), affine)
    before = _resized(start, dissimilarity.grid.shape)
    sides = [max(2, -(-side // stage.control)) for side in grid.shape]
    control = start.new_zeros(len(start), 3, *sides, requires_grad=True)

    def own() -> Tensor:
        smooth = control
        for _ in range(2):
            smooth = F.avg_pool3d(F.pad(smooth, [1] * 6, mode="replicate"), 3, stride=1)
        shape = dissimilarity.grid.shape
        return before + F.interpolate(smooth, shape, mode="trilinear", align_corners=True)

    for _ in descent.steps(stage.steps, stage.rate * grid.spacing, [control]):
        displacement = own()
        apart = [
            (displacement.diff(dim=axis) / dissimilarity.grid.spacing)
            .square()
            .flatten(1)
            .mean(dim=1)
            for axis in (2, 3, 4)
        ]
        loss = dissimilarity(points + displacement.permute(0, 2, 3, 4, 1))
        (loss + DIFFUSION * torch.stack(apart).sum()).backward()
    return _resized(own().detach(), grid.shape)


class _Descent:
    """Steps of Adam, counted over all stages."""

    def __init__(self, on_step: Callable[[int], None]) -> None:
        self._on_step = on_step
        self._done = 0

    def steps(self, count: int, rate: float, parameters: list[Tensor]) -> Iterator[None]:
        """Between two of them gradients are to be found."""
        optimiser = torch.optim.Adam(parameters, rate)
        for _ in range(count):
            self._on_step(self._done)
            optimiser.zero_grad()
            yield
            optimiser.step()
            self._done += 1


def mapped(points: Tensor, affine: Tensor) -> Tensor:
    """Points (D, H, W, 3) by affine maps (S, 3, 4): (S, D, H, W, 3)."""
    turned = torch.einsum("dhwk,sjk->sdhwj", points, affine[:, :, :3])
    return turned + affine[:, None, None, None, :, 3]


def _resized(displacement: Tensor, shape: tuple[int, ...]) -> Tensor:
    return F.interpolate(displacement, shape, mode="trilinear", align_corners=False)
