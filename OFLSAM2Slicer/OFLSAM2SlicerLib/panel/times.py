"""How long runs took on this computer, to tell how long the next one will take."""

from __future__ import annotations

import time
from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from OFLSAM2Core.app.states import State, Status

SETTING = "OFLSAM2/Seconds/"


class RunTimes:
    """Listens to a run, and remembers in this computer's settings how long learning took, and each
    slice."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = ""
        self._state = State.IDLE
        self._began = 0.0

    def begin(self, key: str) -> None:
        """key: of what decides on the time: worker, model, device, method and effort."""
        self._key, self._state = key, State.IDLE

    def follow(self, status: Status) -> None:
        if status.state is self._state or not self._key:
            return
        seconds = self._clock() - self._began
        if self._state is State.LEARNING and status.state is State.SEGMENTING:
            self._remember("learn", seconds)
        if self._state is State.SEGMENTING and status.state is State.DONE and status.slices_done:
            self._remember("slice", seconds / status.slices_done)
        self._state, self._began = status.state, self._clock()

    def expected(self, key: str, is_learned: bool, slices: int) -> str:
        """The expected time, told before a run; "" where nothing is known yet.

        slices: of the volume; 0 where it is not known.
        """
        learning = 0.0 if is_learned else _seconds(key, "learn")
        each = _seconds(key, "slice")
        if each is None or learning is None:
            return ""
        segmenting = each * slices
        if is_learned:
            if not slices:
                return ""
            return _("{time} for this volume on this computer, by the last run.").format(
                time=about(segmenting)
            )
        text = _("{time} to learn on this computer, by the last run").format(time=about(learning))
        if slices:
            text += _(", then {time} for the volume").format(time=about(segmenting).lower())
        return f"{text}."

    def _remember(self, what: str, seconds: float) -> None:
        qt.QSettings().setValue(f"{SETTING}{self._key}/{what}", f"{seconds:.3f}")


def about(seconds: float) -> str:
    if seconds < 90:
        return _("About {s} s").format(s=max(1, round(seconds)))
    return _("About {m} min").format(m=round(seconds / 60))


def _seconds(key: str, what: str) -> float | None:
    value = qt.QSettings().value(f"{SETTING}{key}/{what}")
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
