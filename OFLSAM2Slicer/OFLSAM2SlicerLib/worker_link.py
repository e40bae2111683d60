"""The module's one worker: started on first use, kept warm, its answers given to who asked."""

from __future__ import annotations

import time
from collections.abc import Callable

from OFLSAM2Core.worker.client import Event, WorkerClient
from OFLSAM2SlicerLib.worker_command import WorkerCommand, worker_command

CANCEL_GRACE_S = 1.2  # then the process tree is killed; a cancel must take effect within 2 s

Handler = Callable[[Event], None]


class WorkerLink:
    """Requests to the worker, and their events to handlers.

    `poll` is called from a timer and never waits; all that goes to the worker and comes from it is
    moved in these calls, on the main thread. Handlers are called from it, in order, and only until
    their request is over.
    """

    def __init__(self, command: WorkerCommand) -> None:
        self._command = command
        self._client: WorkerClient | None = None
        self._handlers: dict[int, Handler] = {}

    @property
    def command(self) -> WorkerCommand:
        return self._command

    @property
    def is_alive(self) -> bool:
        return self._client is not None and self._client.alive

    @property
    def is_busy(self) -> bool:
        return bool(self._handlers)

    @property
    def needs_poll(self) -> bool:
        """Whether something is on its way: also a request that was dropped, until it has ended."""
        return self.is_busy or (self._client is not None and self._client.is_waiting)

    @property
    def pid(self) -> int | None:
        return self._client.pid if self._client is not None else None

    @property
    def shares_memory(self) -> bool | None:
        """Whether images and slices go through shared memory; None as long as that is not known."""
        return self._client.shares_memory if self._client is not None else None

    def use(self, command: WorkerCommand) -> None:
        """Use another command from the next request on; the old worker is ended."""
        if command != self._command:
            self.close()
        self._command = command

    def request(self, send: Callable[[WorkerClient], int], handler: Handler) -> int:
        """Start the worker where it does not run, and send it a request.

        Raises InputError where it cannot be started, ProtocolError for what cannot be sent.
        """
        if self._client is None:
            self._client = WorkerClient(self._command.command, self._command.env)
        self._client.start()
        number = send(self._client)
        self._handlers[number] = handler
        return number

    def cancel(self, number: int) -> None:
        if self._client is not None:
            self._client.cancel(number, grace_s=CANCEL_GRACE_S)

    def drop(self, number: int) -> None:
        """No longer hand out the events of a request."""
        self._handlers.pop(number, None)

    def poll(self, budget_s: float = 0.02) -> None:
        """Move what can be moved and hand out what has come, for about `budget_s`.

        What there is no time for waits in the worker, so it takes no memory here.
        """
        end = time.monotonic() + budget_s
        left = budget_s
        while self._client is not None:  # a handler may close the link
            event = self._client.next_event(left)
            if event is None:
                return
            self._hand_out(event)
            left = end - time.monotonic()
            if left < 0:
                return

    def log_lines(self) -> list[str]:
        return self._client.last_log_lines(500) if self._client is not None else []

    def close(self, timeout_s: float = 1.0) -> None:
        """End the worker and everything it started. The next request starts a new one."""
        client, self._client = self._client, None
        self._handlers.clear()
        if client is not None:
            client.close(timeout_s)

    def _hand_out(self, event: Event) -> None:
        if event.id is None:
            return
        handler = self._handlers.get(event.id)
        if handler is None:
            return
        if event.is_last:
            del self._handlers[event.id]
        handler(event)


_shared: WorkerLink | None = None


def shared_link() -> WorkerLink:
    """The link that the panel and the Python console share: one warm worker an application."""
    global _shared
    if _shared is None:
        _shared = WorkerLink(worker_command(""))
    return _shared
