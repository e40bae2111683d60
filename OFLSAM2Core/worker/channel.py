"""The worker's end of the connection: requests in, events out, both of which may wait.

One thread reads, and never writes, so that it always hears a cancel and the end of the input, even
where nobody reads what the worker says. What it has to say itself is a notice, which a thread of
its own writes; `send`, from any other thread, waits until its frame is written.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import Any

from OFLSAM2Core.errors import Cancelled
from OFLSAM2Core.worker.exchange import NOTICE, Incoming, are_large, count_of, notice
from OFLSAM2Core.worker.protocol import (
    Admit,
    Arrays,
    Frame,
    ProtocolError,
    Reader,
    Writer,
    encode_header,
    pieces,
    run_steps,
    write_all,
    write_encoded,
)
from OFLSAM2Core.worker.shared_memory import (
    NONCE_BYTES,
    VARIABLE,
    RingReader,
    RingWriter,
    SharedMemory,
)

MAX_NOTICES = 10_000  # unread answers of some 200 bytes; a program that reads none is of no use


def memory_from_environment() -> SharedMemory | None:
    """The memory that the program which started this worker has made, if there is any."""
    return SharedMemory.open(os.environ.pop(VARIABLE, ""))


class Channel:
    """Frames from `requests`, and to `events`.

    memory: shared with the program at the other end, used once that has proved to be so.
    admit: see `protocol.Admit`.
    """

    def __init__(
        self,
        requests: Reader,
        events: Writer,
        memory: SharedMemory | None = None,
        admit: Admit | None = None,
    ) -> None:
        self._requests = requests
        self._events = events
        self._memory = memory
        self._incoming = Incoming(self._heed, self._say_taken, admit)
        self._outgoing: RingWriter | None = None
        self._large = threading.Lock()  # one frame at a time goes through the ring
        self._pipe = threading.Lock()  # one frame at a time goes into the pipe
        self._room = threading.Condition()  # in the ring
        self._notices: deque[bytes] = deque()
        self._noticed = threading.Semaphore(0)
        self._closed = False
        threading.Thread(target=self._write_notices, name="notices", daemon=True).start()

    # From the reading thread

    def receive(self) -> Frame | None:
        """Wait for the next request; None at the end of the input.

        Raises ProtocolError, and OSError as the stream.
        """
        return run_steps(self._incoming.steps(), self._requests)

    def notify(self, header: dict[str, Any]) -> None:
        """Have an event without arrays written before all that is sent later; does not wait.

        Raises OSError where nobody reads what is written.
        """
        self._put(encode_header(header, {}))

    def close(self) -> None:
        """Nothing more is to be sent: whoever waits for room is interrupted by Cancelled."""
        with self._room:
            self._closed = True
            self._room.notify_all()

    # From other threads

    def flush(self) -> None:
        """Wait until all notices are written, or nobody reads them."""
        with contextlib.suppress(OSError), self._pipe:
            self._flush_notices()

    def send(self, header: dict[str, Any], arrays: Arrays | None = None) -> None:
        """Write an event. Raises ProtocolError for what cannot be sent, Cancelled when closed,
        OSError where nobody reads any more."""
        arrays = arrays or {}
        ring = self._outgoing
        if ring is None or not are_large(arrays):
            encoded = encode_header(header, arrays)
            with self._pipe:
                self._flush_notices()
                write_encoded(self._events, encoded, arrays)
            return
        encoded = encode_header(header, arrays, in_memory=True)
        with self._large:
            self._write(encoded)
            for piece in pieces(arrays):
                while piece:
                    count = self._put_into(ring, piece)
                    self._write(notice("bytes", count=count))
                    piece = piece[count:]

    def _put_into(self, ring: RingWriter, piece: memoryview) -> int:
        with self._room:
            while not (count := ring.write(piece)):
                if self._closed:
                    raise Cancelled
                self._room.wait()
        return count

    def _write(self, encoded: bytes) -> None:
        with self._pipe:
            self._flush_notices()
            write_all(self._events, memoryview(encoded))

    # Notices

    def _put(self, encoded: bytes) -> None:
        if len(self._notices) >= MAX_NOTICES:
            raise BrokenPipeError("The worker's answers are not read.")
        self._notices.append(encoded)
        self._noticed.release()

    def _write_notices(self) -> None:
        while True:
            self._noticed.acquire()
            try:
                with self._pipe:
                    self._flush_notices()
            except OSError:  # the next one who sends, or the end of the input, will tell
                return

    def _flush_notices(self) -> None:
        while self._notices:
            write_all(self._events, memoryview(self._notices.popleft()))

    def _say_taken(self, count: int) -> None:
        self._put(notice("taken", count=count))

    def _heed(self, header: dict[str, Any]) -> None:
        what = header[NOTICE]
        if what == "share" and self._outgoing is None:
            seen = self._memory.to_worker[:NONCE_BYTES].tobytes().hex() if self._memory else None
            self._put(notice("seen", nonce=seen))
        elif what == "use" and self._memory is not None and self._outgoing is None:
            self._incoming.ring = RingReader(self._memory.to_worker)
            self._outgoing = RingWriter(self._memory.from_worker)
        elif what == "taken" and self._outgoing is not None:
            with self._room:
                self._outgoing.taken(count_of(header))
                self._room.notify_all()
        else:
            raise ProtocolError(f"A notice of shared memory is not understood: {header!r:.100}.")
