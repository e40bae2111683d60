"""Requests of the system to end: SIGTERM, SIGINT, a closed terminal or connection (SIGHUP).

Python answers signals between its own instructions, on the main thread, which may be inside
PyTorch or OpenVINO for seconds. The descriptor of `signal.set_wakeup_fd` is written to at once, by
the C handler, so a thread that reads it can answer.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")


def answer_signals(end: Callable[[int], None]) -> None:
    """From now on a request to end calls `end` with the exit code, on a thread of its own, within
    milliseconds whatever the main thread does. To be called on the main thread.

    end: ends the process. Code: 128 plus the signal's number; 130 on Windows.
    """
    if os.name != "posix":  # there `set_wakeup_fd` wants a socket, and Ctrl-C is all that comes
        for number in _numbers():
            signal.signal(number, lambda *_: end(130))
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    for number in _numbers():
        if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has a closed terminal ignored
            signal.signal(number, _nothing)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    wanted = {int(number) for number in _numbers()}

    def wait() -> None:
        while number := os.read(read_end, 1):
            if number[0] in wanted:
                end(128 + number[0])

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _nothing(number: int, frame: FrameType | None) -> None:
    """The thread answers. A handler of Python's has to be there for the descriptor to be used."""
