"""A method without a backbone, of a package that is not this one: it labels what is bright.

The threshold lies between the mean intensities of labelled and unlabelled support voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context, MethodState
from OFLSAM2Core.methods.options import Options, option


@dataclass(frozen=True)
class ToyLearnOptions(Options):
    bias: float = option(0.0, "Intensity that is added to the threshold.")
    threshold: float = option(0.5, "Where it lies between dark and bright.", low=0, high=1)


@dataclass(frozen=True)
class ToySegmentOptions(Options):
    threshold: float = option(0.5, "Where it lies between dark and bright.", low=0, high=1)
    invert: bool = option(False, "Whether dark voxels are labelled instead.")


class ToyRun:
    def __init__(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: ToySegmentOptions
    ) -> None:
        self._ctx, self._volume, self._task, self._options = ctx, volume, task, options
        self._intensities = task.state.tensors["intensities"]

    def slices(self) -> Iterator[SliceResult]:
        dark, bright = self._intensities.tolist()
        level = dark + self._options.threshold * (bright - dark)
        structure = self._task.structures[0]
        for index, plane in enumerate(self._volume.array):
            self._ctx.report(Progress("segment", index, len(self._volume.array)))
            with self._ctx.timings.stage("compare"):
                found = (plane > level) != self._options.invert
            yield SliceResult(
                index,
                0,
                np.where(found, structure.label, 0).astype(np.uint8),
                np.full(plane.shape, 200, np.uint8),
                {structure.name: 0.9},
            )

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        known = self._volume.array[corrections.known]
        labels = corrections.labels[corrections.known]
        self._intensities = torch.tensor([known[labels == 0].mean(), known[labels > 0].mean()])
        return self.slices()

    def state(self) -> MethodState:
        tensors = {**self._task.state.tensors, "intensities": self._intensities}
        return replace(self._task.state, tensors=tensors)


class ToyMethod:
    name = "toy-threshold"
    description = "labels what is bright"
    needs_backbone = False
    sequences = False
    corrections = True
    unlabelled = True
    LearnOptions = ToyLearnOptions
    SegmentOptions = ToySegmentOptions
    presets = {"fast": {"invert": False}, "balanced": {}, "accurate": {}}

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: ToyLearnOptions
    ) -> MethodState:
        inside = np.concatenate([case.volume.array[case.labels > 0] for case in support])
        outside = np.concatenate([case.volume.array[case.labels == 0] for case in support])
        both = torch.tensor([outside.mean() + options.bias, inside.mean() + options.bias])
        of_unlabelled = torch.tensor([float(volume.array.mean()) for volume in ctx.unlabelled])
        return MethodState(
            1,
            {"cases": len(support)},
            {"intensities": both, "means without labels": of_unlabelled},
            {"kind": "toy"},
        )

    def add_case(
        self, ctx: Context, task: LearnedTask, case: SupportCase, options: ToyLearnOptions
    ) -> MethodState:
        one = self.learn(ctx, [case], options)
        had, cases = task.state.tensors["intensities"], task.state.metadata["cases"]
        both = (cases * had + one.tensors["intensities"]) / (cases + 1)
        tensors = {**task.state.tensors, "intensities": both}
        return replace(task.state, metadata={"cases": cases + 1}, tensors=tensors)

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: ToySegmentOptions
    ) -> ToyRun:
        return ToyRun(ctx, volume, task, options)
