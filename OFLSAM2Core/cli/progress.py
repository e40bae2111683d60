"""Progress bars: the stage, how far it is, the time left."""

from __future__ import annotations

import sys

from tqdm import tqdm

from OFLSAM2Core.data.results import Progress

_STAGES = {
    "read": "Reading",
    "encode": "Encoding",
    "learn": "Learning",
    "segment": "Segmenting",
    "finish": "Finishing",
}
_BYTES = 100_000  # Totals above this are bytes of a download; no job has so many steps.


class ProgressBars:
    """One bar at a time, on stderr; a new one for every stage. Is a ProgressCallback."""

    _current: tqdm | None = None

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stage = ("", 0)
        self._bar: tqdm | None = None

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        stage = (progress.stage, progress.total)
        if stage != self._stage or self._bar is None:
            self.close()
            self._stage = stage
            self._bar = ProgressBars._current = self._new_bar(progress)
        self._bar.set_postfix_str(progress.message, refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def say(self, text: str) -> None:
        """Print a line on stdout, without tearing the bar."""
        self.close()
        print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @classmethod
    def close_current(cls) -> None:
        """Clear the line of whichever bar is shown, before an error is printed."""
        if cls._current is not None:
            cls._current.close()

    def _new_bar(self, progress: Progress) -> tqdm:
        is_bytes = progress.total > _BYTES
        return tqdm(
            desc=_STAGES.get(progress.stage, progress.stage),
            total=progress.total or None,
            unit="B" if is_bytes else "step",
            unit_scale=is_bytes,
            leave=False,
            dynamic_ncols=True,
            delay=0.5,  # What is over at once needs no bar.
            # In a log file, a line now and then.
            mininterval=0.1 if sys.stderr.isatty() else 10,
        )
