"""The worker: frames in on stdin, events out on stdout, one job at a time.

    python -m OFLSAM2Core.worker

A thread reads requests, so that `cancel` arrives during a job; jobs run one after the other on the
main thread. The end of stdin (the program that started the worker has gone) ends the worker and all
that it started, also in the middle of a job, and where nobody reads its output: the reading thread
neither writes nor logs. So does SIGTERM. Whatever prints to stdout prints to stderr, which is the
log.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from OFLSAM2Core.errors import Cancelled, OFLSAM2Error
from OFLSAM2Core.runtime.log import start_log
from OFLSAM2Core.runtime.temporary import remove_temporary
from OFLSAM2Core.worker.admission import require_memory_for
from OFLSAM2Core.worker.channel import Channel, memory_from_environment
from OFLSAM2Core.worker.failures import failure_of, is_out_of_memory
from OFLSAM2Core.worker.handlers import HANDLERS, warm_up
from OFLSAM2Core.worker.job import Answer, Job
from OFLSAM2Core.worker.process import kill_own_descendants
from OFLSAM2Core.worker.protocol import Arrays, Frame, Head, ProtocolError, Reader, Writer
from OFLSAM2Core.worker.shared_memory import SharedMemory
from OFLSAM2Core.worker.signals import answer_signals
from OFLSAM2Core.worker.warm import release_memory

GRACE_S = 1.0  # for a job to end by itself after the end of stdin
MAX_WAITING_BYTES = 2 * 2**30  # of requests, beside one that is as large as it may be
NICE = 5  # Slicer stays responsive, and nothing is lost on a machine that is otherwise idle

handlers: dict[str, Callable[[Job], Answer]] = dict(HANDLERS)
"""By request. `cancel` and `shutdown` are the server's own."""

_DESCRIPTION = "Serve another program over standard input and output."

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until stdin ends, then end the process. Never returns."""
    parser = argparse.ArgumentParser(prog="oflsam2 worker", description=_DESCRIPTION)
    parser.add_argument("--nice", type=int, default=NICE, help="priority (POSIX); default: 5")
    nice = parser.parse_args(arguments).nice
    memory = memory_from_environment()
    requests, events = _take_over_streams()
    # For the end: then it is too late to import, since a job may hold the lock of imports.
    with contextlib.suppress(ImportError):
        importlib.import_module("psutil")
    faulthandler.enable()
    answer_signals(_end_process)
    if hasattr(os, "nice"):
        os.nice(nice)
    log_file = start_log("worker", terminal_level=logging.INFO)
    _log.info("Worker started, Python %s", sys.version.split()[0])
    _end_process(Server(requests, events, log_file, memory).run())


class Server:
    """Reads requests and answers them until the stream ends or `shutdown` comes."""

    def __init__(
        self,
        requests: Reader,
        events: Writer,
        log_file: Path | None = None,
        memory: SharedMemory | None = None,
    ) -> None:
        self._channel = Channel(requests, events, memory, self._admit)
        self._log_file = log_file
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: dict[int | str, Job] = {}  # queued or running
        self._running: Job | None = None
        self._admitted = 0  # bytes of the request that is being read
        self._warming_up = False
        self._exit_code = 0

    def run(self) -> int:
        """Returns the exit code."""
        forwarder = _Forwarder(self)
        logging.getLogger("OFLSAM2Core").addHandler(forwarder)
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        while (job := self._queue.get()) is not None:
            self._work(job)
            # Set before the queue is looked at: the end comes either there or while it is set.
            self._warming_up = job.name == "hello"
            if self._warming_up and self._queue.empty():
                warm_up()
            self._warming_up = False
            del job  # and its arrays
        self._channel.flush()
        return self._exit_code

    def send(self, header: dict[str, Any], arrays: Arrays | None = None) -> None:
        """Write an event, from any thread but the one that reads."""
        try:
            self._channel.send(header, arrays)
        except OSError:  # nobody listens any more
            self._stop(1)
            raise Cancelled from None

    def tell(self, text: str, level: str) -> None:
        """Send a message of the log, from any thread; it comes before what is sent later."""
        job = self._running
        fields = {"event": "log", "id": job.id if job else None, "level": level, "text": text}
        with contextlib.suppress(OSError):
            self._channel.notify(fields)

    # On the main thread

    def _work(self, job: Job) -> None:
        with self._lock:
            if self._jobs.get(job.id) is not job:  # cancelled in the queue
                return
            self._running = job
        ran_out = False
        try:
            answer = handlers[job.name](job)
        except Exception as error:
            on_purpose = isinstance(error, OFLSAM2Error)
            _log.info("'%s' ended: %s", job.name, error, exc_info=not on_purpose)
            answer = Answer(failure_of(error, self._log_file), event="failed")
            ran_out = is_out_of_memory(error)
        if ran_out:  # only here, where the error and all that its traceback holds are gone
            release_memory()
        with self._lock:  # before the answer, after which the id may be used again
            self._running = None
            self._jobs.pop(job.id, None)
        with contextlib.suppress(Cancelled):
            try:
                job.send(answer.event, answer.fields, answer.arrays)
            except ProtocolError as error:
                job.send("failed", failure_of(error))

    # On the reading thread

    def _read(self) -> None:
        while True:
            try:
                frame = self._channel.receive()
                if frame is None:
                    return self._stop(0)
                if frame.header.get("request") == "shutdown":
                    return self._stop(0)
                self._receive(frame)
                del frame
            except ProtocolError as error:
                with contextlib.suppress(OSError):
                    self._refuse(error)
                if not error.synchronised:
                    return self._stop(1)
            except OSError:
                return self._stop(1)

    def _receive(self, frame: Frame) -> None:
        header = frame.header
        name, number = header.get("request"), header.get("id")
        if not isinstance(number, int | str) or isinstance(number, bool):
            raise _refused("A request needs an 'id', a number or text.", {})
        if name == "cancel":
            return self._cancel(header)
        if not isinstance(name, str) or name not in handlers:
            known = ", ".join([*handlers, "cancel", "shutdown"])
            raise _refused(f"There is no request {name!r:.100}; known are {known}.", header)
        job = Job(frame, self.send, self._admitted)
        with self._lock:
            if number in self._jobs:
                raise _refused(f"The id {number!r:.100} is in use.", {})
            self._jobs[number] = job
        self._queue.put(job)
        return None

    def _cancel(self, header: dict[str, Any]) -> None:
        target = header.get("target")
        if not isinstance(target, int | str):
            raise _refused("A 'cancel' request needs 'target', the id of a job.", header)
        with self._lock:
            job = self._jobs.get(target)
            if job is None:  # it ended a moment ago
                return
            job.cancel()
            if job is self._running:
                return
            del self._jobs[target]
        self._channel.notify({**failure_of(Cancelled()), "event": "failed", "id": target})

    def _admit(self, head: Head) -> None:
        """Refuses a request for which there is no room in memory, or beside those that wait."""
        require_memory_for(head)
        size = head.size
        with self._lock:
            waiting = sum(job.size for job in self._jobs.values() if job is not self._running)
        if waiting and waiting + size > MAX_WAITING_BYTES:
            raise ProtocolError(
                f"Requests of {waiting / 2**20:.0f} MiB wait for the worker; this one of "
                f"{size / 2**20:.0f} MiB is refused.",
                "Send it when some of them are done.",
                header=head.header,
                kind="resource",
            )
        self._admitted = size

    def _refuse(self, error: ProtocolError) -> None:
        number = error.header.get("id")
        if not isinstance(number, int | str):
            number = None
        self._channel.notify({**failure_of(error), "event": "failed", "id": number})

    def _stop(self, code: int) -> None:
        """No more requests: end now, or GRACE_S after asking the job to end."""
        self._exit_code = code
        with self._lock:
            for job in self._jobs.values():
                job.cancel()
            self._jobs = {job.id: job for job in (self._running,) if job is not None}
        self._channel.close()
        self._queue.put(None)
        # An import cannot be asked to end, and has no result that counts.
        grace = 0.1 if self._warming_up else GRACE_S
        timer = threading.Timer(grace, _end_process, (code,))
        timer.daemon = True
        timer.start()


class _Forwarder(logging.Handler):
    """Sends this package's warnings as "log" events, with the id of the job at work."""

    def __init__(self, server: Server) -> None:
        super().__init__(logging.WARNING)
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        self._server.tell(record.getMessage(), record.levelname.lower())


def _refused(message: str, header: dict[str, Any]) -> ProtocolError:
    return ProtocolError(message, synchronised=True, header=header)


def _take_over_streams() -> tuple[FileIO, FileIO]:
    """Private copies of stdin and stdout; then nothing else reads the one or writes the other.

    On the level of file descriptors, since libraries in C print too, and subprocesses inherit.
    """
    requests = FileIO(os.dup(0), "rb")
    events = FileIO(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stdout.flush()
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, events


def _end_process(code: int) -> None:
    kill_own_descendants()
    # Not sys.exit: threads of PyTorch and OpenVINO may take seconds to end, or never do, and a
    # hung job may hold any lock.
    remove_temporary()
    os._exit(code)


if __name__ == "__main__":
    main()
