"""A job: one request being worked on, and how it is answered, reported and stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy.typing as npt

from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.errors import Cancelled
from OFLSAM2Core.worker.protocol import Arrays, Frame, ProtocolError

PROGRESS_INTERVAL_S = 0.05  # a panel redraws at 10 Hz; an inner loop may report at 1 kHz

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Answer:
    """The last event of a job that went well."""

    fields: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, npt.NDArray] = field(default_factory=dict)
    event: str = "done"


class Job:
    """What a handler works with.

    send: writes an event of this job, from any thread but the one that reads requests.
    size: bytes of memory that the request takes, about.
    """

    def __init__(
        self, frame: Frame, send: Callable[[dict[str, Any], Arrays], None], size: int = 0
    ) -> None:
        self.frame = frame
        self.size = size
        self.id: int | str = frame.header["id"]
        self.name: str = frame.header["request"]
        self.started = time.monotonic()
        self._send = send
        self._cancelled = threading.Event()
        self._last_progress: tuple[str, float] = ("", 0.0)

    @property
    def seconds(self) -> float:
        """Since the job was received."""
        return round(time.monotonic() - self.started, 3)

    def send(self, event: str, fields: dict[str, Any], arrays: Arrays | None = None) -> None:
        self._send({**fields, "event": event, "id": self.id}, arrays or {})

    def cancel(self) -> None:
        """From any thread: the job ends at its next `check_cancelled`."""
        self._cancelled.set()

    def check_cancelled(self) -> None:
        """Raises Cancelled where that was asked for."""
        if self._cancelled.is_set():
            raise Cancelled

    def on_progress(self, progress: Progress) -> None:
        """A ProgressCallback: sends "progress" events, not too many. Raises Cancelled."""
        self.check_cancelled()
        stage, sent = self._last_progress
        now = time.monotonic()
        if (
            progress.stage == stage
            and progress.done < progress.total
            and now - sent < PROGRESS_INTERVAL_S
        ):
            return
        self._last_progress = (progress.stage, now)
        self.send(
            "progress",
            {
                "stage": progress.stage,
                "done": progress.done,
                "total": progress.total,
                "message": progress.message,
            },
        )

    def take(self, name: str, kind: type[T], default: T | None = None) -> T:
        """A field of the request. Raises ProtocolError where it is missing (and has no default) or
        of another type."""
        value = self.frame.header.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, kind):
            raise ProtocolError(
                f"A '{self.name}' request needs '{name}' ({kind.__name__}), not {value!r:.100}."
            )
        return value

    def take_optional(self, name: str, kind: type[T]) -> T | None:
        """The same, or None where it is missing."""
        return None if self.frame.header.get(name) is None else self.take(name, kind)
