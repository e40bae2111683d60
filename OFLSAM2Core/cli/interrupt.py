"""Ctrl-C and requests to end that are answered at once, whatever the work is doing.

The work runs in a thread: a call into PyTorch or OpenVINO can take seconds, and Python answers
signals only between such calls, and only in the main thread. The main thread waits for what the
work sends. A signal is noted, and answered where the main thread waits: never in the middle of
writing what was finished.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, Queue
from typing import Generic, TypeVar

from OFLSAM2Core.cli.signals import is_asked_to_stop, raise_if_stopped
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.errors import Cancelled

T = TypeVar("T")

# How long a stopped thread is waited for: long enough for a Python loop to notice, short enough
# to end well within a second.
_GRACE_S = 0.3
_POLL_S = 0.1  # A wait without an end cannot be interrupted on Windows.


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
            if is_asked_to_stop():
                stopped.set()
                yield from _that_came(sent)  # What is finished is the user's.
                raise_if_stopped()
            try:
                message = sent.get(timeout=_POLL_S)
            except Empty:
                if thread.is_alive() or not sent.empty():
                    continue
                # It could not even say why: there was no memory left for that.
                raise MemoryError from None
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


def _that_came(sent: Queue[_Sent[T]]) -> Iterator[T]:
    """Items that were sent and not taken yet."""
    with suppress(Empty):
        while True:
            yield from sent.get_nowait().items


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
