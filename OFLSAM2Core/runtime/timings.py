"""Where the time goes: seconds by stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Timings:
    """Seconds and counts by stage, as a method names them ("encode", "locate", "predict", ...)."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    _within: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done within, less the stages that it holds itself."""
        start, outside = time.perf_counter(), self._within
        self._within = 0.0
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self.seconds[name] += taken - self._within
            self.counts[name] += 1
            self._within = outside + taken
