"""How far a training has come that ends after so much time of one processor core."""

from __future__ import annotations

import time
from collections.abc import Iterator


def training_clock(core_minutes: float, training_steps: int = 0) -> Iterator[float]:
    """Once for each step, at least once: the part of the training that lies behind, 0 to 1.

    core_minutes: of one core's time of this process, so that what else a machine does is not
    counted. training_steps: it ends after so many steps where that is sooner; 0: it does not.
    """
    started, step, part = time.process_time(), 0, 0.0
    while step == 0 or part < 1:
        yield part
        step += 1
        spent = time.process_time() - started
        part = spent / max(60 * core_minutes, 1e-9)
        if training_steps:
            part = max(part, step / training_steps)
