"""Ctrl-C and requests to end that are answered at once, whatever the work is doing.

The work runs in a thread: a call into PyTorch or OpenVINO can take seconds, and Python answers
signals only between such calls, and only in the main thread. The main thread waits for what the
work sends. A signal is noted, and answered where the main thread waits: never in the middle of
writing what was finished.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from types import FrameType
from typing import Generic, NoReturn, TypeVar

from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.errors import Cancelled
from OFLSAM2Core.runtime.temporary import remove_temporary

T = TypeVar("T")

# How long a stopped thread is waited for: long enough for a Python loop to notice, short enough
# to end well within a second.
_GRACE_S = 0.3
_POLL_S = 0.1  # A wait without an end cannot be interrupted on Windows.
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
        return  # Of a program that calls `main` as a function; its signals are its own.
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


def raise_if_stopped() -> None:
    """Raises Stopped where the program was asked to stop and has not answered."""
    if _Asked.count and not _Asked.answered:
        _Asked.answered = True
        raise Stopped(_Asked.code)


def end_process(code: int) -> NoReturn:
    """At once: the thread that works may be inside PyTorch for seconds and cannot be waited for."""
    remove_temporary()
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


def in_background(
    make_items: Callable[[ProgressCallback], Iterator[T]], show: ProgressCallback
) -> Iterator[T]:
    """Yields, in this thread, what `make_items` makes in another; `show` gets its progress, in
    this thread too. What is raised there is raised here. When this generator is closed, or the
    program is asked to stop (then it raises Stopped), the work is told to stop by `Cancelled` from
    its progress callback."""
    raise_if_stopped()
    sent: Queue[_Sent[T]] = Queue()
    stopped = threading.Event()

    def report(progress: Progress) -> None:
        if stopped.is_set():
            raise Cancelled
        sent.put(_Sent(progress=progress))

    def work() -> None:
        try:
            for item in make_items(report):
                if stopped.is_set():
                    return
                sent.put(_Sent(items=[item]))
            sent.put(_Sent(ended=True))
        except BaseException as error:
            sent.put(_Sent(ended=True, error=error))

    thread = threading.Thread(target=work, name="work", daemon=True)
    thread.start()
    try:
        while True:
            raise_if_stopped()
            try:
                message = sent.get(timeout=_POLL_S)
            except Empty:
                continue
            if message.error is not None:
                raise message.error
            if message.ended:
                return
            if message.progress is not None:
                show(message.progress)
            yield from message.items
    finally:
        stopped.set()
        thread.join(_GRACE_S)


def call_in_background(function: Callable[[ProgressCallback], T], show: ProgressCallback) -> T:
    """The same for a function that returns one thing."""

    def once(report: ProgressCallback) -> Iterator[T]:
        yield function(report)

    (result,) = in_background(once, show)
    return result


class _Sent(Generic[T]):
    """A message from the thread that works."""

    def __init__(
        self,
        *,
        items: list[T] | None = None,
        progress: Progress | None = None,
        ended: bool = False,
        error: BaseException | None = None,
    ) -> None:
        self.items = items or []
        self.progress = progress
        self.ended = ended
        self.error = error
