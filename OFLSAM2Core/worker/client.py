"""The caller's end of the worker: plain Python, no Qt, no torch.

    client = WorkerClient()
    client.start()
    job = client.segment(volume, task_path="liver.oflsam2")
    ...
    for event in client.poll():                # from a GUI timer, say; hardly takes time
        if event.name == "slice":
            result = event.slice_result()
            output[result.index_expression] = result.labels
        elif event.is_last and event.id == job:
            print(event.name, event.header)    # "done", or "failed" with kind, message and hint

A program that may wait calls `client.wait(job, on_event=...)` instead. Nothing is read or written
but in these calls: there is no thread, since in Slicer it would hardly ever run.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import Cancelled, ResourceError
from OFLSAM2Core.runtime.python_command import python_command, python_environment
from OFLSAM2Core.worker import payloads
from OFLSAM2Core.worker.connection import Connection
from OFLSAM2Core.worker.failures import failure_of
from OFLSAM2Core.worker.process import end_process, exit_in_words, start_process
from OFLSAM2Core.worker.protocol import Arrays, Frame, ProtocolError
from OFLSAM2Core.worker.shared_memory import VARIABLE, SharedMemory

LAST_EVENTS = frozenset({"ready", "done", "failed"})
LOG_LINES_SHOWN = 40  # the stacks of all threads after a crash
POLL_S = 0.02
SEND_S = 0.005  # a small request is sent at once
LIVENESS_S = 0.02  # how soon the end of a process is noticed whose children hold its pipes


@dataclass(frozen=True, eq=False)
class Event:
    """A message of the worker.

    name: "ready", "progress", "slice", "log", "done" or "failed".
    id: of the request it answers, or None where it belongs to none.
    header: its other fields. A "failed" event has `kind`, `message` and `hint`; where the worker
        has ended it has `log` too, the last lines of its log.
    """

    name: str
    id: int | None
    header: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, npt.NDArray] = field(default_factory=dict)

    @property
    def is_last(self) -> bool:
        """Whether the request is over: each is answered by exactly one such event."""
        return self.name in LAST_EVENTS

    def slice_result(self) -> SliceResult:
        """The slice that a "slice" event carries."""
        return payloads.slice_from(self.header, self.arrays)


class WorkerClient:
    """Starts a worker, sends it requests, and gathers its events.

    command: any command that speaks the protocol, for instance
        `["ssh", "-o", "BatchMode=yes", "host", "oflsam2", "worker"]`; by default this Python's own.
    env, cwd: of the process; by default those of this process.
    log: called with each line of the worker's log, from the calls that read.
    share_memory: whether large arrays go through memory that the worker sees, too, where it does;
        otherwise everything goes through its pipes.

    Only `close`, `wait`, and `poll` with a timeout wait. A worker that has died gives a "failed"
    event of kind "died" for each request it leaves, or for none (id None); `start` starts it again.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        log: Callable[[str], None] | None = None,
        share_memory: bool = True,
    ) -> None:
        self.command = list(command or python_command("OFLSAM2Core.worker"))
        self._env = worker_environment(os.environ if env is None else env)
        self._cwd = cwd
        self._log = log
        self._share_memory = share_memory
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._events: deque[Event] = deque()
        self._pending: dict[int, Mapping[str, Any]] = {}  # headers of requests
        self._cancelled: dict[int, float] = {}  # when to kill the worker that does not stop
        self._hung: int | None = None  # the request whose cancelling has killed the worker
        self._connection: Connection | None = None
        self._alive = False
        _clients.add(self)

    def start(self) -> None:
        """Start the worker, also again after it died; nothing happens where it is alive.

        Raises InputError where the command cannot be started.
        """
        with self._lock:
            if self.alive:
                return
            memory = SharedMemory.create() if self._share_memory else None
            try:
                process = start_process(
                    self.command,
                    {**self._env, VARIABLE: memory.description} if memory else self._env,
                    self._cwd,
                    memory.inherited if memory else (),
                )
            finally:
                if memory is not None:
                    memory.started()
            self._hung = None
            self._alive = True
            self._connection = Connection(process, memory, self._log)

    @property
    def alive(self) -> bool:
        with self._lock:
            connection = self._connection
            if self._alive and connection is not None and connection.process.poll() is not None:
                while self._alive:  # what it left is read
                    self._advance(0.1)
            return self._alive

    @property
    def pid(self) -> int | None:
        """Process number of the worker that was started last; None before the first."""
        return self._connection.process.pid if self._connection else None

    @property
    def shares_memory(self) -> bool | None:
        """Whether large arrays go through shared memory; None as long as that is not known."""
        return self._connection.shares_memory if self._connection else None

    @property
    def is_waiting(self) -> bool:
        """Whether a request is not over yet, so that `poll` is needed."""
        return bool(self._pending)

    def last_log_lines(self, count: int = LOG_LINES_SHOWN) -> list[str]:
        """The end of the worker's log, oldest line first; kept after its end."""
        return list(self._connection.log_lines)[-count:] if self._connection else []

    # Requests

    def request(
        self, name: str, fields: Mapping[str, Any] | None = None, arrays: Arrays | None = None
    ) -> int:
        """Queue a request and return its id. What is not sent at once, `poll` and `wait` send.

        The arrays are not copied: leave them as they are until the request is over.
        Raises ResourceError where the worker does not run, ProtocolError for what cannot be sent.
        """
        with self._lock:
            if self._connection is None or not self.alive:
                raise ResourceError("The worker is not running.", "Start it (again).")
            number = next(self._ids)
            header = {**(fields or {}), "request": name, "id": number}
            self._connection.send(header, dict(arrays or {}))
            self._pending[number] = header
            self._advance(SEND_S)
        return number

    def hello(self) -> int:
        """Ask for the worker's version, devices, backbones and methods: a "ready" event."""
        return self.request("hello")

    def learn(
        self,
        support_cases: Sequence[SupportCase],
        *,
        task_path: str | Path | None = None,
        return_task: bool = False,
        **fields: Any,
    ) -> int:
        """Learn a task, and write it to `task_path`, a path on the worker's machine.

        With `return_task` the "done" event carries the file's bytes as the array "task", for a
        worker on another machine. Further fields: backbone, device, method, options,
        allow_missing, seed, weights.
        """
        described, arrays = payloads.support_to(support_cases)
        if task_path is not None:
            fields["task_path"] = str(task_path)
        return self.request("learn", {**fields, **described, "return_task": return_task}, arrays)

    def segment(
        self,
        volume: Volume,
        *,
        task_path: str | Path | None = None,
        task: bytes | npt.NDArray[np.uint8] | None = None,
        **fields: Any,
    ) -> int:
        """Segment with the task at `task_path` on the worker's machine, or with a task's bytes.

        Further fields: device, preset, options, weights, and keep, for `correct`.
        """
        described, arrays = payloads.volume_to(volume)
        if task is not None:
            arrays["task"] = np.frombuffer(task, np.uint8)
        if task_path is not None:
            fields["task_path"] = str(task_path)
        return self.request("segment", {**fields, **described}, arrays)

    def correct(self, corrections: Corrections, segmented: int, **fields: Any) -> int:
        """Learn from corrections of the volume of the "segment" request with the id `segmented`,
        which was made with `keep=True`; slices that change by it are sent.

        Further field: return_task, to have the "done" event carry the task with what was taught.
        """
        described, arrays = payloads.corrections_to(corrections)
        return self.request("correct", {**fields, **described, "segmented": segmented}, arrays)

    def add_case(
        self, case: SupportCase, task: bytes | npt.NDArray[np.uint8], **fields: Any
    ) -> int:
        """Add a support case to a task, given as its file's bytes; the "done" event carries the
        grown task's. Further fields: device, weights."""
        described, arrays = payloads.support_to([case])
        arrays["task"] = np.frombuffer(task, np.uint8)
        return self.request("add_case", {**fields, **described}, arrays)

    def cancel(self, request_id: int, grace_s: float = 2.0) -> None:
        """Ask the worker to stop a job; if it has not after `grace_s`, kill its process tree.

        Either way the job ends with a "failed" event of kind "cancelled". A job that is over is
        left alone. The time is looked at by the calls that read events.
        """
        with self._lock:
            header, connection = self._pending.get(request_id), self._connection
            if connection is None or header is None or request_id in self._cancelled:
                return
            if connection.unsend(header):
                self._put(Event("failed", request_id, failure_of(Cancelled())))
                return
            message = {"request": "cancel", "id": next(self._ids), "target": request_id}
            connection.send(message, {})
            self._cancelled[request_id] = time.monotonic() + grace_s
            self._advance(SEND_S)

    # Events

    def next_event(self, budget_s: float = 0.0) -> Event | None:
        """The next event; reads and writes for up to about `budget_s` where none is there."""
        with self._lock:
            if not self._events:
                self._advance(budget_s)
            return self._events.popleft() if self._events else None

    def poll(self, timeout: float = 0.0) -> list[Event]:
        """The events that have come since the last call, in order; for about 20 ms at most.

        timeout: seconds to wait for the first, where there is none yet.
        """
        events: list[Event] = []
        begin = time.monotonic()
        while True:
            event = self.next_event(POLL_S)
            now = time.monotonic()
            if event is not None:
                events.append(event)
            elif events or now >= begin + timeout:
                return events
            elif self._connection is not None and not self._connection.has_ended:
                self._connection.wait(min(begin + timeout - now, LIVENESS_S))
            else:  # nothing will come
                time.sleep(min(begin + timeout - now, LIVENESS_S))
            if events and now > begin + POLL_S:
                return events

    def wait(
        self,
        request_id: int,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = float("inf"),
    ) -> Event:
        """Block until the request is over and return its last event; `on_event` gets all events.

        Raises TimeoutError after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        last: Event | None = None
        while last is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"The worker has not answered within {timeout:.0f} s.")
            for event in self.poll(timeout=min(0.1, timeout)):
                if on_event is not None:
                    on_event(event)
                if event.is_last and event.id == request_id:
                    last = event
        return last

    # The end

    def close(self, timeout_s: float = 2.0) -> None:
        """End the worker: ask it, after `timeout_s` terminate it, then kill its process tree.

        Its requests get no further event. It can be started again.
        """
        with self._lock:
            connection, was_alive = self._connection, self._alive
            self._alive = False
            self._pending.clear()
            self._cancelled.clear()
            if connection is None or not was_alive:
                return
            connection.hang_up()
            end = time.monotonic() + timeout_s
            while not connection.has_ended and time.monotonic() < end:
                connection.receive(POLL_S)  # or it could not write its last words
                connection.wait(0.005)
            end_process(connection.process, 0.0)
            while not connection.has_ended:
                connection.receive(POLL_S)

    def _advance(self, budget_s: float) -> None:
        """Read and write for a while, and note the next event."""
        connection = self._connection
        if connection is None or not self._alive:
            return
        now = time.monotonic()
        for number, deadline in self._cancelled.items():
            if now > deadline and self._hung is None:
                self._hung = number
                connection.kill()
        frame = connection.receive(budget_s)
        if frame is not None:
            self._receive(connection, frame)
        elif connection.has_ended:
            self._ended(connection)

    def _receive(self, connection: Connection, frame: Frame) -> None:
        header = dict(frame.header)
        name, number = header.pop("event", None), header.pop("id", None)
        if not isinstance(name, str) or not isinstance(number, int | None):
            connection.refuse(ProtocolError("What the worker sent is not an event."))
        else:
            self._put(Event(name, number, header, frame.arrays))

    def _put(self, event: Event) -> None:
        self._events.append(event)
        if event.is_last and event.id is not None:
            self._pending.pop(event.id, None)
            self._cancelled.pop(event.id, None)

    def _ended(self, connection: Connection) -> None:
        self._alive = False
        left: list[int | None] = [*sorted(self._pending)] or [None]
        for number in left:
            self._put(Event("failed", number, self._why(connection, number)))

    def _why(self, connection: Connection, number: int | None) -> dict[str, Any]:
        log, error = self.last_log_lines(), connection.error
        again = "The next run starts it again. What went before is in its log."
        if self._hung is not None:
            kind = "cancelled" if number == self._hung else "died"
            return _failed(kind, "The worker did not stop when asked and was ended.", "", log)
        if error is not None:
            message = f"What the worker's command sent is not understood: {error.message}"
            return _failed("died", message, "Check the worker's command and version.", log)
        return _failed("died", exit_in_words(connection.process.returncode), again, log)


def worker_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env`, so that the worker's Python finds this package, installed or not."""
    found = {
        **python_environment(env),
        "PYTHONIOENCODING": "utf-8",
    }  # the log is read as UTF-8 on every system
    root = Path(__file__).resolve().parents[2]
    # Another Python's site-packages in the path would give the worker this Python's torch, too.
    if root.name not in ("site-packages", "dist-packages"):
        paths = [str(root), *filter(None, [found.get("PYTHONPATH")])]
        found["PYTHONPATH"] = os.pathsep.join(paths)
    return found


def _failed(kind: str, message: str, hint: str, log: list[str]) -> dict[str, Any]:
    return {"kind": kind, "message": message, "hint": hint, "log": log}


_clients: weakref.WeakSet[WorkerClient] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for client in list(_clients):
        client.close(timeout_s=0.5)
