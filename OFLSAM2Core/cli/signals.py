"""Requests to stop, from the first moment on: Ctrl-C, SIGTERM, a closed terminal.

Imports little: what comes before `answer_signals` is ended by Python itself, with a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from OFLSAM2Core.runtime.temporary import remove_temporary

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_AT_ONCE = 3  # so many requests to stop end the process in the middle of anything


class Stopped(KeyboardInterrupt):
    """The user, or the system, asked the program to end. code: its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class _Asked:
    """The requests to stop since the program started."""

    count = 0
    code = 130
    answered = False
    at_once = True


def answer_signals() -> None:
    """From now on Ctrl-C, SIGTERM and a closed terminal end the program, without a traceback.

    At once, as long as there is nothing to lose; within `signals_noted` where `in_background`
    waits. The third request ends it in any case.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Another program calls `main` as a function; its signals are its own.
    _Asked.count, _Asked.answered, _Asked.at_once = 0, False, True
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        # `nohup` has a closed terminal ignored.
        if number is not None and not (
            name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN
        ):
            signal.signal(number, _note)


def default_signals() -> None:
    """Leave signals to the system's ways, as they were before `answer_signals`."""
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _note:
            usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(number, usual)


@contextmanager
def signals_noted() -> Iterator[None]:
    """Requests to stop are answered where `in_background` waits, and at the end of the block.

    Raises Stopped.
    """
    _Asked.at_once = False
    yield
    raise_if_stopped()


def is_asked_to_stop() -> bool:
    """Whether the program was asked to stop and has not answered."""
    return bool(_Asked.count) and not _Asked.answered


def raise_if_stopped() -> None:
    """Raises Stopped where the program was asked to stop and has not answered."""
    if is_asked_to_stop():
        _Asked.answered = True
        raise Stopped(_Asked.code)


def end_process(code: int) -> NoReturn:
    """At once: the thread that works may be inside PyTorch for seconds and cannot be waited for."""
    remove_temporary()
    if logging := sys.modules.get("logging"):
        with suppress(Exception):
            logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def _note(signum: int, frame: FrameType | None) -> None:
    _Asked.count += 1
    if _Asked.count == 1:
        _Asked.code = 128 + signum if os.name == "posix" else 130
    if _Asked.at_once or _Asked.count >= _AT_ONCE:
        _say("Stopped.\n")
        remove_temporary()
        os._exit(_Asked.code)
    if _Asked.count > 1:
        _say("\nWriting what is finished. Once more ends it at once.\n")


def _say(text: str) -> None:
    # Not by `print`: this may come in the middle of another one.
    with suppress(OSError):
        os.write(2, text.encode())
