"""How long methods are trained that learn for a given time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from OFLSAM2Core.methods.options import Options, option

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"core_minutes": 5.0},
    "balanced": {},
    "accurate": {"core_minutes": 150.0},
}


@dataclass(frozen=True)
class TrainingTime(Options):
    """Options of a method that is trained for a given time."""

    core_minutes: float = option(
        15.0,
        "Minutes of one processor core's time that are trained, not counting what a backbone "
        "encodes once before; two cores take half as long.",
        low=0.0,
        high=100_000,
    )
    training_steps: int = option(
        0, "Training ends after so many steps where that is sooner; 0: it does not.", low=0
    )


def training_clock(core_minutes: float, training_steps: int = 0) -> Iterator[float]:
    """The part of the training that is done, 0 to 1, before each step, of which there is at least
    one.

    core_minutes: minutes of one core's time of this process, so that what else a machine does is
    not counted. training_steps: training ends after so many steps where that is sooner; 0: it does
    not.
    """
    started, step, part = time.process_time(), 0, 0.0
    while step == 0 or part < 1:
        yield part
        step += 1
        spent = time.process_time() - started
        part = spent / max(60 * core_minutes, 1e-9)
        if training_steps:
            part = max(part, step / training_steps)
