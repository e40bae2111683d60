"""Support cases as atlases: found in a volume, registered to it, and their labels fused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.atlas.deformable_registration import STEPS, register
from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.atlas.label_fusion import locally_weighted, majority
from OFLSAM2Core.atlas.mind import mind_ssc
from OFLSAM2Core.atlas.template_matching import best_translation
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context, refuse_corrections
from OFLSAM2Core.methods.common.reading_state import reading
from OFLSAM2Core.methods.common.sliced_volume import SlicedCase, SlicedVolume, SlicePreparation
from OFLSAM2Core.methods.common.slicing_options import SlicingOptions
from OFLSAM2Core.methods.common.volume_on_grid import Coverage, grey_on_grid, middle_of
from OFLSAM2Core.postprocessing.probability_volume import as_bytes

VERSION = 1

IMAGE_SIZE = 256
"""Only for the intensity mapping, which is fitted to slices as a backbone would see them."""

ROOM = 24.0
"""mm beside the structures, each way, in which cases are compared, too."""

COARSER = 4
"""Cells of the atlases' grid to one of the grid on which their place is searched."""


@dataclass(frozen=True)
class Atlases:
    """grid: of each case, around the middle of its structures. images: grey values, (S, 1, D, H,
    W), and labels, how much of each cell structures cover, (S, N, D, H, W), both in bytes."""

    slices: SlicePreparation
    grid: IsotropicGrid
    images: Tensor
    labels: Tensor

    @classmethod
    def from_support(cls, support: Sequence[SupportCase], options: SlicingOptions) -> Atlases:
        """Raises InputError where the cases cannot be cut along one axis."""
        slices, cases = SlicePreparation.learn(
            support, IMAGE_SIZE, options.slicing_axis, options.intensity_window
        )
        boxes = [_box(case) for case in cases]
        whole = np.max([np.multiply(c.slicing.shape, c.slicing.steps) for c in cases], axis=0)
        extent = np.max([high - low for low, high in boxes], axis=0) + 2 * ROOM
        finest = min(min(case.slicing.steps) for case in cases)
        grid = IsotropicGrid.holding(np.minimum(extent, whole).tolist(), finest)
        values = [structure.label for structure in support[0].structures]
        images, labels = [], []
        for case, (low, high) in zip(cases, boxes, strict=True):
            slice_, row, column = ((low + high) / 2).tolist()
            middle = slice_, row, column
            images.append(as_bytes(grey_on_grid(grid, case, middle)[0]))
            shown, inside = grid.show(Coverage(case.labels, values), case.slicing, middle)
            labels.append(as_bytes(shown * inside))
        return cls(slices, grid, torch.stack(images), torch.stack(labels))

    @torch.no_grad()
    def find(self, volume: SlicedVolume) -> Point:
        """Where the middle of the structures is most likely, mm from the middle of the first voxel:
        the place at which the volume looks most like the cases, on a coarse grid."""
        coarse = self.grid.coarser(COARSER)
        sides = np.multiply(volume.slicing.shape, volume.slicing.steps)
        # Half of the atlases may lie outside.
        over = [
            int(np.ceil(side / coarse.spacing)) + own
            for side, own in zip(sides, coarse.shape, strict=True)
        ]
        large = IsotropicGrid(coarse.spacing, (over[0], over[1], over[2]))
        middle = middle_of(volume)
        image, inside = grey_on_grid(large, volume, middle)
        atlases = F.avg_pool3d(self.images.float() / 255, COARSER)
        best = best_translation(mind_ssc(image[None]), inside.float(), mind_ssc(atlases))
        at = [
            own + (cell - (side - 1) / 2) * large.spacing
            for own, cell, side in zip(middle, best, large.shape, strict=True)
        ]
        return at[0], at[1], at[2]

    @torch.no_grad()
    def vote(self, ctx: Context, volume: SlicedVolume, middle: Point, fusion: str) -> Tensor:
        """Share of the cases' votes on the grid around `middle`, (N, D, H, W)."""
        image, inside = grey_on_grid(self.grid, volume, middle)
        seen, cases = mind_ssc(image[None]), mind_ssc(self.images.float() / 255)

        def on_step(step: int) -> None:
            ctx.report(Progress("finish", step, STEPS, "registering the support cases"))

        starts = torch.zeros(len(cases), 3)
        points = register(self.grid, seen, inside.float(), cases, starts, on_step)
        labels = self.grid.at(self.labels.float() / 255, points)
        has = self.labels.flatten(2).amax(dim=2) > 127
        if fusion == "majority":
            return majority((labels > 0.5).float(), has)
        return locally_weighted(labels, self.grid.at(cases, points) - seen, has)

    def encode(self) -> MethodState:
        return MethodState(
            VERSION,
            {"slices": self.slices.to_json(), "spacing": self.grid.spacing},
            {"images": self.images, "labels": self.labels},
            {**self.slices.summary, "atlases": len(self.images)},
        )

    @classmethod
    def decode(cls, state: MethodState) -> Atlases:
        """Raises TaskError where the state is of another version or lacks a part."""
        with reading(state, VERSION):
            images = state.tensors["images"]
            depth, rows, columns = images.shape[2:]
            grid = IsotropicGrid(float(state.metadata["spacing"]), (depth, rows, columns))
            slices = SlicePreparation.from_json(state.metadata["slices"])
            return cls(slices, grid, images, state.tensors["labels"])


class AtlasRun:
    """One volume, segmented as a whole: no slice is known before all are."""

    def __init__(self, ctx: Context, volume: Volume, task: LearnedTask, fusion: str) -> None:
        self.ctx, self.structures, self.fusion = ctx, task.structures, fusion
        self.atlases = Atlases.decode(task.state)
        self.volume = self.atlases.slices.apply(volume)

    def slices(self) -> Iterator[SliceResult]:
        """Every slice, from the first to the last. Confidence is the cases' agreement."""
        count, cut = self.volume.count, self.volume.slicing
        rows, columns = cut.slice_shape
        with self.ctx.timings.stage("locate"):
            middle = self.atlases.find(self.volume)
        with self.ctx.timings.stage("register"):
            votes = self.atlases.vote(self.ctx, self.volume, middle, self.fusion)
        for index in range(count):
            self.ctx.report(Progress("segment", index, count))
            box = (0, rows, 0, columns)
            own = self.atlases.grid.on_slices(votes, cut, middle, index, box)
            yield self.volume.result_on_grid(index, own, self.structures)[0]
        self.ctx.report(Progress("segment", count, count))

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections("atlas")

    def state(self) -> MethodState:
        return self.atlases.encode()


def _box(case: SlicedCase) -> tuple[npt.NDArray, npt.NDArray]:
    """The box of all structures: its corners, mm from the middle of the first voxel, (3,) each."""
    box = bounding_box(case.labels > 0)
    steps = np.array(case.slicing.steps)
    first = np.array([side.start for side in box]) - 0.5
    last = np.array([side.stop for side in box]) - 0.5
    return first * steps, last * steps
