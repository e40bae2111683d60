"""A method that is as quick as it is plain: a voxel is the structure whose mean it is nearest to.

It works as the others do, slice by slice, with a first result and a second one that improves it,
and needs no backbone: what is tested with it is everything around a method.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.options import Options, option

at_slice = 0
"""The signals come at this slice, counted from 1 over all that this process segments."""
signals: tuple[int, ...] = ()
_begun = itertools.count(1)


def _begin_slice() -> None:
    if next(_begun) == at_slice:
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        time.sleep(0.5)  # In which it is answered.


@dataclass(frozen=True)
class LearnOptions(Options):
    steps: int = option(3, "How often progress is reported in learning.", low=1)


@dataclass(frozen=True)
class SegmentOptions(Options):
    wait: float = option(0.0, "Seconds that a slice takes.", low=0, high=100)


class NearestIntensity:
    name = "nearest-intensity"
    description = "the structure whose mean intensity is nearest"
    needs_backbone = False
    sequences = False
    corrections = False
    LearnOptions = LearnOptions
    SegmentOptions = SegmentOptions
    presets: Mapping[str, Mapping[str, Any]] = {"fast": {}, "balanced": {}, "accurate": {}}

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: LearnOptions
    ) -> MethodState:
        import torch

        for step in range(options.steps):
            ctx.report(Progress("learn", step, options.steps, support[0].name))
        means = [
            np.mean([case.volume.array[case.labels == label].mean() for case in support])
            for label in (0, *(structure.label for structure in support[0].structures))
        ]
        return MethodState(1, {"cases": len(support)}, {"means": torch.tensor(means)})

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: SegmentOptions
    ) -> NearestIntensityRun:
        means = task.state.tensors.get("means")
        if means is None or means.shape != (len(task.structures) + 1,):
            raise TaskError("The learned task lacks the mean intensities.", "Learn it again.")
        return NearestIntensityRun(ctx, volume, task, means.numpy(), options)


@dataclass
class NearestIntensityRun:
    ctx: Context
    volume: Volume
    task: LearnedTask
    means: np.ndarray
    options: SegmentOptions

    def slices(self) -> Iterator[SliceResult]:
        labels = np.array([0, *(s.label for s in self.task.structures)], np.uint8)
        count = len(self.volume.array)
        for revision, stage in enumerate(("segment", "finish")):
            for index in range(count):
                _begin_slice()
                time.sleep(self.options.wait)
                self.ctx.report(Progress(stage, index + 1, count))
                distance = np.abs(self.volume.array[index][..., None] - self.means)
                found = labels[distance.argmin(axis=-1)]
                if revision == 0:
                    found[::2] = 0  # The second result is the better one.
                sure = np.full(found.shape, 128 + revision, np.uint8)
                scores = {structure.name: 0.5 for structure in self.task.structures}
                yield SliceResult(index, 0, found, sure, scores, revision)

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        raise InputError("This method learns nothing from corrections.")

    def state(self) -> MethodState:
        return self.task.state
