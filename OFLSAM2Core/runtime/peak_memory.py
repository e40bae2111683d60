"""The most memory that a stretch of work took."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

INTERVAL_SECONDS = 0.02


class PeakMemory:
    """`with MemoryWatch() as watch: ...`, then `watch.peak_bytes`.

    The resident memory of this whole process is looked at every 20 ms, so that several stretches
    of one process can be separated, which the system's own peak since the start cannot.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._note()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._note()

    def _look(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            self._note()

    def _note(self) -> None:
        self.peak_bytes = max(self.peak_bytes, int(self._process.memory_info().rss))
