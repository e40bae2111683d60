"""Frames whose arrays go through shared memory, as both ends send and read them.

On top of requests and events there are notices, `{"shared_memory": WHAT, ...}`:

    "share"           to the worker: tell what stands at the start of the memory
    "seen", nonce     from it: these random bytes, in hexadecimal, or null where it has no memory
    "use"             to the worker: they are the right ones, so both see the same memory
    "bytes", count    so many bytes of the frame's arrays stand in the ring
    "taken", count    so many were copied, and their place is free

Without "use" every array follows its header in the pipe, as between two computers. A frame never
says where in memory its bytes are: both ends count. So there is nothing in a header that could lead
to other memory, and what does not add up is a ProtocolError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from OFLSAM2Core.worker.protocol import (
    Admit,
    Arrays,
    Frame,
    Head,
    ProtocolError,
    Steps,
    array_steps,
    bytes_of,
    encode_header,
    head_steps,
)
from OFLSAM2Core.worker.shared_memory import RingReader

NOTICE = "shared_memory"
INLINE_BYTES = 16 * 2**10  # arrays of a frame up to here follow it in the pipe

SHARE: dict[str, Any] = {NOTICE: "share"}
USE: dict[str, Any] = {NOTICE: "use"}


def are_large(arrays: Arrays) -> bool:
    """Whether arrays go through memory, where there is some."""
    return sum(array.nbytes for array in arrays.values()) > INLINE_BYTES


def notice(what: str, **fields: Any) -> bytes:
    """A notice as it is sent."""
    return encode_header({NOTICE: what, **fields}, {})


class Incoming:
    """Reads the frames of one direction.

    on_notice: called with every notice but "bytes".
    on_taken: called with a count of bytes after they were copied out of the ring.
    admit: see `protocol.Admit`.
    ring: where arrays come through; None until both ends know that they share it.
    """

    def __init__(
        self,
        on_notice: Callable[[dict[str, Any]], None],
        on_taken: Callable[[int], None],
        admit: Admit | None = None,
    ) -> None:
        self.ring: RingReader | None = None
        self._on_notice = on_notice
        self._on_taken = on_taken
        self._admit = admit
        self._coming: _Coming | None = None

    def steps(self) -> Steps[Frame | None]:
        """The steps of reading the next frame; None at the end of the stream.

        Raises ProtocolError as `protocol.read_frame`.
        """
        while True:
            head = yield from head_steps()
            if head is None:
                if self._coming is not None:
                    raise ProtocolError("The stream ended within arrays.")
                return None
            if NOTICE in head.header:
                self._take_notice(head)
            elif head.in_memory:
                self._begin(head)
            else:
                return (yield from array_steps(head, self._admit))
            if self._coming is not None and self._coming.left == 0:
                coming, self._coming = self._coming, None
                return coming.frame()

    def _begin(self, head: Head) -> None:
        if self.ring is None or self._coming is not None:
            raise ProtocolError("Arrays are in memory that is not shared.", header=head.header)
        self._coming = _Coming(head, self._admit)

    def _take_notice(self, head: Head) -> None:
        if head.listed or head.in_memory:
            raise ProtocolError("A notice of shared memory has arrays.")
        if head.header[NOTICE] != "bytes":
            return self._on_notice(head.header)
        count = count_of(head.header)
        if self.ring is None or self._coming is None or count > self._coming.left:
            raise ProtocolError(f"{count} bytes in shared memory belong to no array.")
        self._coming.take(self.ring, count)
        self._on_taken(count)
        return None


class _Coming:
    """A frame whose arrays are on their way, or are skipped."""

    def __init__(self, head: Head, admit: Admit | None) -> None:
        self.left = head.array_bytes
        self._head = head
        self._arrays: dict[str, npt.NDArray] = {}
        self._error: ProtocolError | None = None
        try:
            self._arrays = head.make_arrays(admit)
        except ProtocolError as error:
            self._error = error
        self._buffers = [bytes_of(array) for array in self._arrays.values() if array.size]

    def take(self, ring: RingReader, count: int) -> None:
        self.left -= count
        if self._error is not None:
            return ring.skip(count)
        while count:
            buffer = self._buffers[0][:count]
            ring.read(buffer)
            count -= len(buffer)
            self._buffers[0] = self._buffers[0][len(buffer) :]
            if not self._buffers[0]:
                del self._buffers[0]
        return None

    def frame(self) -> Frame:
        """Raises ProtocolError where the arrays were skipped."""
        if self._error is not None:
            self._error.synchronised = True
            raise self._error
        return Frame(self._head.header, self._arrays)


def count_of(header: dict[str, Any]) -> int:
    """The `count` of a notice. Raises ProtocolError where it is none."""
    count = header.get("count")
    if type(count) is not int or count < 1:
        raise ProtocolError(f"A notice of shared memory has the count {count!r:.40}.")
    return count
