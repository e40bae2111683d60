"""One life of a worker's process, as its caller sees it. Nothing waits, and there is no thread.

In Slicer a thread gets Python's lock for a moment between two turns of Qt's event loop only, so all
reading and writing is done by whoever calls `receive`, a little at a time.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from subprocess import Popen
from typing import Any, cast

import numpy as np

from OFLSAM2Core.worker import pipes
from OFLSAM2Core.worker.exchange import NOTICE, SHARE, USE, Incoming, are_large, count_of, notice
from OFLSAM2Core.worker.process import GRACE_S, kill_tree
from OFLSAM2Core.worker.protocol import (
    Arrays,
    Frame,
    ProtocolError,
    Steps,
    encode_header,
    pieces,
)
from OFLSAM2Core.worker.shared_memory import NONCE_BYTES, RingReader, RingWriter, SharedMemory

LOG_LINES_KEPT = 500


class Connection:
    """Sends frames to a process, gives those that come, and keeps the end of its stderr.

    memory: which the process has inherited; used once it has proved to see it, otherwise arrays go
        through the pipe, too.
    on_log: called with each line of stderr, from `receive`.
    error: why the process was killed, where what it sent was not understood.
    has_ended: whether the process is gone and everything it left is read.
    """

    def __init__(
        self,
        process: Popen[bytes],
        memory: SharedMemory | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.process = process
        self.log_lines: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self.error: ProtocolError | None = None
        self.has_ended = False
        self._on_log = on_log
        self._stdin = cast(FileIO, process.stdin)
        self._stdout: FileIO | None = cast(FileIO, process.stdout)
        self._stderr: FileIO | None = cast(FileIO, process.stderr)
        pipes.prepare((self._stdout, self._stderr), self._stdin)
        self._memory = memory
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._shares: bool | None = None  # not known yet
        self._outgoing: RingWriter | None = None
        self._incoming = Incoming(self._heed, self._say_taken)
        self._steps: Steps[Frame | None] | None = None
        self._buffer = memoryview(b"")
        self._outbox: deque[tuple[Mapping[str, Any], Arrays]] = deque()
        self._notices: deque[bytes] = deque()
        self._writing = memoryview(b"")  # what goes into the pipe next
        self._pieces: Iterator[memoryview] | None = None  # of the frame that is being sent
        self._piece = memoryview(b"")
        self._is_in_ring = False  # rather than in the pipe
        self._log_rest = b""
        self._deadline: float | None = None  # of what is over but for the end of the process
        self._found_dead = False
        if memory is None:
            self._shares = False
        else:
            memory.to_worker[:NONCE_BYTES] = np.frombuffer(self._nonce, np.uint8)
            self._notices.append(encode_header(SHARE, {}))

    @property
    def shares_memory(self) -> bool | None:
        """Whether large arrays go through shared memory; None as long as that is not known."""
        return self._shares

    def send(self, header: Mapping[str, Any], arrays: Arrays) -> None:
        """Queue a frame, which `receive` sends. Raises ProtocolError for what cannot be sent."""
        encode_header(header, arrays)
        self._outbox.append((header, arrays))

    def unsend(self, header: Mapping[str, Any]) -> bool:
        """Take a frame back; False where its sending has begun."""
        for number, (queued, _) in enumerate(self._outbox):
            if queued is header:
                del self._outbox[number]
                return True
        return False

    def receive(self, budget_s: float) -> Frame | None:
        """Read and write for up to about `budget_s`; the next frame, or None where none has come.

        Each step moves at most a MiB, so even without time something is moved.
        """
        end = time.monotonic() + budget_s
        while not self.has_ended:
            # Looked at before reading: what a dead process has written is in the pipe.
            is_dead = self._is_dead()
            moved = self._write(end)
            frame = None
            try:
                frame, has_read = self._read(end)
                moved |= has_read
            except ProtocolError as error:
                self.refuse(error)
            moved |= self._read_log()
            if frame is not None:
                return frame
            if is_dead and (not moved or self._is_overdue):
                self._finish()
            elif not moved and self._is_overdue:
                self._deadline = float("inf")
                self.kill()
            if not moved or time.monotonic() > end:
                return None
        return None

    def wait(self, timeout_s: float) -> None:
        """Wait until `receive` has something to do, for at most `timeout_s`."""
        if not self.has_ended:
            reading = [stream for stream in (self._stdout, self._stderr) if stream is not None]
            writing = [self._stdin] if self._writing and not self._stdin.closed else []
            pipes.wait(reading, writing, timeout_s)

    def hang_up(self) -> None:
        """Close the process's input, by which it ends; what is queued is not sent."""
        self._stop_writing()

    def kill(self) -> None:
        """Kill the process and all it started; `receive` tells when it is gone."""
        kill_tree(self.process)

    # Writing

    def _write(self, end: float) -> bool:
        moved = False
        try:
            while self._writing or self._next_bytes():
                count = pipes.write_some(self._stdin, self._writing)
                if not count:
                    break
                self._writing = self._writing[count:]
                moved = True
                if time.monotonic() > end:
                    break
        except OSError:  # nobody reads any more: that worker is of no use, if it still lives
            self._stop_writing()
            self._expect_the_end()
        return moved

    def _next_bytes(self) -> bool:
        """Have the next bytes for the pipe; False where there are none, or none may go yet."""
        if self._stdin.closed:
            return False
        if self._notices and (self._pieces is None or self._is_in_ring):
            self._writing = memoryview(self._notices.popleft())
            return True
        if self._pieces is not None and not self._piece:
            self._piece = next(self._pieces, memoryview(b""))
            if not self._piece:
                self._pieces = None
        if self._piece and self._is_in_ring:
            assert self._outgoing is not None
            count = self._outgoing.write(self._piece)
            self._writing = memoryview(notice("bytes", count=count) if count else b"")
            self._piece = self._piece[count:]
        elif self._piece:
            self._writing, self._piece = self._piece, memoryview(b"")
        elif self._outbox:
            self._begin_frame()
        return bool(self._writing)

    def _begin_frame(self) -> None:
        header, arrays = self._outbox[0]
        is_large = are_large(arrays)
        if is_large and self._shares is None:
            return
        self._outbox.popleft()
        self._is_in_ring = is_large and self._outgoing is not None
        self._writing = memoryview(encode_header(header, arrays, in_memory=self._is_in_ring))
        self._pieces = pieces(arrays)

    def _stop_writing(self) -> None:
        self._outbox.clear()
        self._notices.clear()
        self._writing = self._piece = memoryview(b"")
        self._pieces = None
        self._stdin.close()

    def _say_taken(self, count: int) -> None:
        self._notices.append(notice("taken", count=count))

    # Reading

    def _read(self, end: float) -> tuple[Frame | None, bool]:
        """The next frame, if it has come, and whether anything has."""
        moved = False
        while self._stdout is not None:
            if self._steps is None:
                self._steps = self._incoming.steps()
                self._buffer = next(self._steps)
            count = pipes.read_some(self._stdout, self._buffer)
            if count is None:
                break
            moved = True
            try:
                self._buffer = self._steps.send(count)
            except StopIteration as stop:
                self._steps = None
                if stop.value is None:
                    self._output_ends()
                elif not self._is_refusal_to_share(stop.value):
                    return stop.value, True
            except ProtocolError:
                self._steps = None
                if count:
                    raise
                self._output_ends()  # in the middle of a frame: it was killed
            if time.monotonic() > end:
                break
        return None, moved

    def _heed(self, header: dict[str, Any]) -> None:
        what = header[NOTICE]
        if what == "seen" and self._shares is None:
            self._shares = header.get("nonce") == self._nonce.hex()
            if self._shares and self._memory is not None:
                self._notices.append(encode_header(USE, {}))
                self._outgoing = RingWriter(self._memory.to_worker)
                self._incoming.ring = RingReader(self._memory.from_worker)
            self._memory = None
        elif what == "taken" and self._outgoing is not None:
            self._outgoing.taken(count_of(header))
        else:
            raise ProtocolError(f"A notice of shared memory is not understood: {header!r:.100}.")

    def _is_refusal_to_share(self, frame: Frame) -> bool:
        """Whether this is a worker of an earlier version, which knows of no shared memory."""
        answer = {name: frame.header.get(name) for name in ("event", "id", "kind")}
        if self._shares is not None or answer != {
            "event": "failed",
            "id": None,
            "kind": "protocol",
        }:
            return False
        self._shares, self._memory = False, None
        return True

    def _read_log(self) -> bool:
        if self._stderr is None:
            return False
        chunk = bytearray(65536)
        count = pipes.read_some(self._stderr, memoryview(chunk))
        if count is None:
            return False
        if count == 0:
            self._stderr.close()
            self._stderr = None
            return False
        content = self._log_rest + bytes(chunk[:count]).replace(b"\r", b"\n")
        *lines, self._log_rest = content.split(b"\n")
        self._keep(lines)
        return True

    def _keep(self, lines: list[bytes]) -> None:
        for line in lines:
            if text := line.decode("utf-8", errors="replace").rstrip():
                self.log_lines.append(text)
                if self._on_log is not None:
                    self._on_log(text)

    # The end

    def refuse(self, error: ProtocolError) -> None:
        """What has come is not understood, nor can be what follows: kill the process."""
        self.error = error
        self._output_ends()
        self.kill()

    def _output_ends(self) -> None:
        if self._stdout is not None:
            self._stdout.close()
            self._stdout = None
        self._expect_the_end()

    def _expect_the_end(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + GRACE_S

    @property
    def _is_overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def _is_dead(self) -> bool:
        """Whether the process is gone. Its children may hold the pipes, so their end says
        nothing; they are killed, and what has come by then is read."""
        if self.process.poll() is None:
            return False
        if not self._found_dead:
            self._found_dead = True
            self._deadline = time.monotonic() + GRACE_S
            kill_tree(self.process)
        return True

    def _finish(self) -> None:
        self._keep([self._log_rest])
        self._log_rest = b""
        self._stop_writing()
        for stream in (self._stdout, self._stderr):
            if stream is not None:
                stream.close()
        self._stdout = self._stderr = None
        self._memory = self._outgoing = self._incoming.ring = None
        self._steps = None
        self.has_ended = True
