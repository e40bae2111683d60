"""One life of a worker's process, and the three threads that do what may block."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from subprocess import Popen
from typing import Any, cast

from OFLSAM2Core.worker.process import GRACE_S, end_process, kill_tree
from OFLSAM2Core.worker.protocol import (
    Arrays,
    Frame,
    ProtocolError,
    Reader,
    encode_header,
    read_frame,
    write_encoded,
)

LOG_LINES_KEPT = 500


class Connection:
    """Writes frames to a process, passes on those that come, and keeps the end of its stderr.

    on_frame: called with each frame from the reading thread; it may raise ProtocolError.
    on_end: called once from the reading thread, after the process has ended; with the error if it
        was ended because what it sent was not understood.
    on_log: called with each line of stderr, from another thread.
    """

    def __init__(
        self,
        process: Popen[bytes],
        on_frame: Callable[[Connection, Frame], None],
        on_end: Callable[[Connection, ProtocolError | None], None],
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.process = process
        self.log_lines: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._on_frame = on_frame
        self._on_end = on_end
        self._on_log = on_log
        self._outbox: queue.SimpleQueue[tuple[bytes, Arrays] | None] = queue.SimpleQueue()
        self._log_thread = _start(self._read_log)
        self._read_thread = _start(self._read_frames)
        _start(self._write_frames)

    def send(self, header: Mapping[str, Any], arrays: Arrays) -> None:
        """Queue a frame; returns at once. Raises ProtocolError for what cannot be sent."""
        self._outbox.put((encode_header(header, arrays), arrays))

    def kill(self) -> None:
        """Kill the process and all it started. `on_end` follows."""
        kill_tree(self.process)

    def close(self, timeout_s: float) -> None:
        """Close its stdin after what is queued, give it `timeout_s` to end, then end it."""
        self._outbox.put(None)
        end_process(self.process, timeout_s)
        self._read_thread.join(timeout=GRACE_S)

    def _write_frames(self) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        try:
            while (message := self._outbox.get()) is not None:
                write_encoded(stdin, *message)
                del message  # or its arrays would be held until the next request
            stdin.close()
        except OSError:  # nobody reads any more: that worker is of no use, if it still lives
            end_process(self.process, GRACE_S)

    def _read_frames(self) -> None:
        stdout = cast(Reader, self.process.stdout)
        reason = None
        try:
            while (frame := read_frame(stdout)) is not None:
                self._on_frame(self, frame)
                del frame
        except ProtocolError as error:
            reason = error
            kill_tree(self.process)
        except OSError:
            pass
        end_process(self.process, GRACE_S)
        self._log_thread.join(timeout=GRACE_S)  # the last words explain the end
        self._outbox.put(None)
        self._on_end(self, reason)

    def _read_log(self) -> None:
        stderr = self.process.stderr
        assert stderr is not None
        rest = b""
        while chunk := stderr.read(65536):
            *lines, rest = (rest + chunk.replace(b"\r", b"\n")).split(b"\n")
            self._keep(lines)
        self._keep([rest])

    def _keep(self, lines: list[bytes]) -> None:
        for line in lines:
            if text := line.decode("utf-8", errors="replace").rstrip():
                self.log_lines.append(text)
                if self._on_log is not None:
                    self._on_log(text)


def _start(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=f"worker{target.__name__}", daemon=True)
    thread.start()
    return thread
