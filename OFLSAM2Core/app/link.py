"""What a user interface needs of its connection to a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from OFLSAM2Core.worker.client import Event, WorkerClient


class Link(Protocol):
    """Requests to a worker whose events are handed out on the caller's own thread, by `poll`."""

    def request(self, send: Callable[[WorkerClient], int], handler: Callable[[Event], Any]) -> int:
        """Send a request; its events go to `handler`. Returns its number."""

    def cancel(self, number: int) -> None:
        """Ask the worker to stop a request; its last event still comes."""

    def drop(self, number: int) -> None:
        """Hand out no more events of a request."""

    def poll(self, budget_s: float = 0.02) -> None:
        """Hand out the events that have come, for about `budget_s` seconds."""
