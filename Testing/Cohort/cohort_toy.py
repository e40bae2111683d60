"""A method without a backbone for cohorts: it labels what is bright, in the mean of co-registered
volumes, and misbehaves where a case's name says so. Every case that it begins is a line in the file
$COHORT_TOY_LOG."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context, MethodState
from OFLSAM2Core.methods.options import Options, option

LOG = "COHORT_TOY_LOG"


@dataclass(frozen=True)
class ToyOptions(Options):
    threshold: float = option(0.5, "Where the threshold lies between dark and bright.")


class ToyRun:
    def __init__(self, ctx: Context, volume: Volume, task: LearnedTask, options: ToyOptions):
        self._ctx, self._volume, self._task, self._options = ctx, volume, task, options

    def slices(self) -> Iterator[SliceResult]:
        name = self._volume.name
        times = begun(name)
        dark, bright = self._task.state.tensors["intensities"].tolist()
        level = dark + self._options.threshold * (bright - dark)
        structure = self._task.structures[0]
        array = mean_of(self._volume)
        for index, plane in enumerate(array):
            self._ctx.report(Progress("segment", index, len(array)))
            if index == len(array) // 2:
                misbehave(name, times)
            yield SliceResult(
                index,
                0,
                np.where(plane > level, structure.label, 0).astype(np.uint8),
                np.full(plane.shape, 230, np.uint8),
                {structure.name: 0.4 if "doubtful" in name else 0.9},
            )

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        yield from ()

    def state(self) -> MethodState:
        return self._task.state


class ToyMethod:
    name = "cohort-toy"
    description = "labels what is bright"
    needs_backbone = False
    sequences = True
    corrections = False
    further_volumes = True
    LearnOptions = ToyOptions
    SegmentOptions = ToyOptions
    presets = {"fast": {}, "balanced": {}, "accurate": {}}

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: ToyOptions
    ) -> MethodState:
        begun("learn")
        inside = np.concatenate([mean_of(case.volume)[case.labels > 0] for case in support])
        outside = np.concatenate([mean_of(case.volume)[case.labels == 0] for case in support])
        means = torch.tensor([float(outside.mean()), float(inside.mean())])
        return MethodState(1, {}, {"intensities": means})

    def open(self, ctx: Context, volume: Volume, task: LearnedTask, options: ToyOptions) -> ToyRun:
        return ToyRun(ctx, volume, task, options)


def mean_of(volume: Volume) -> npt.NDArray:
    """The mean of a volume and its co-registered ones, where there are any."""
    if not volume.further:
        return volume.array
    return np.mean([volume.array, *(each.array for each in volume.further)], axis=0)


def begun(name: str) -> int:
    """Note it; how often it was begun, this time included."""
    log = os.environ.get(LOG)
    if log is None:
        return 1
    with open(log, "a") as file:
        file.write(f"{name} {os.getpid()}\n")
    return [line.split()[0] for line in Path(log).read_text().splitlines()].count(name)


def misbehave(name: str, times: int) -> None:
    """In mid-case, as the case's name says."""
    if "slow" in name:
        time.sleep(0.5)
    if "held" in name:
        released = Path(f"{os.environ[LOG]}.released")
        while not released.exists():
            time.sleep(0.05)
    if "bug" in name:
        raise ValueError("something that nobody thought of")
    if "deadly" in name or ("killed" in name and times == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if "greedy" in name:
        raise MemoryError
