"""Memory that a program and its worker share on one computer, and a ring of bytes in it.

There is one piece of memory a connection, made before the worker is started and gone with the last
of both processes, however they end: the system frees it, so nothing can be left behind.

- Linux: a memory file (`memfd_create`), which never has a name.
- macOS, other POSIX: a temporary file of the user's own, unlinked as soon as it is open.
  Both are inherited by the worker as an open descriptor; its environment has the number.
- Windows: memory of the page file under a name of 128 random bits, in the session's namespace.

`multiprocessing.shared_memory` is not used: on POSIX its segments outlive two killed processes, and
it starts a further Python process to look after them, which in Slicer would be another Slicer.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import secrets
import stat
import sys
import tempfile

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.worker.protocol import ProtocolError

VARIABLE = "OFLSAM2_WORKER_MEMORY"
"""In the worker's environment: how it finds the memory."""

RING_BYTES = 32 * 2**20
"""In each direction. A panel that copies for 15 ms of every 45 gets 0.7 GB a second through it."""

NONCE_BYTES = 32

_DESCRIPTION = re.compile(r"(descriptor|name):([A-Za-z0-9-]{1,64})")


class SharedMemory:
    """Two rings of RING_BYTES: `to_worker` and `from_worker`."""

    def __init__(self, memory: mmap.mmap, description: str = "", descriptor: int = -1) -> None:
        halves = np.frombuffer(memory, np.uint8)  # keeps the mapping as long as it is used
        self.to_worker, self.from_worker = halves[:RING_BYTES], halves[RING_BYTES:]
        self.description = description
        self._descriptor = descriptor

    @classmethod
    def create(cls) -> SharedMemory | None:
        """New memory, all zero; None where the system gives none."""
        try:
            if sys.platform == "win32":
                name = f"oflsam2-{secrets.token_hex(16)}"
                return cls(mmap.mmap(-1, 2 * RING_BYTES, tagname=name), f"name:{name}")
            descriptor = _unnamed_file(2 * RING_BYTES)
            try:
                memory = mmap.mmap(descriptor, 2 * RING_BYTES)
            except BaseException:
                os.close(descriptor)
                raise
            return cls(memory, f"descriptor:{descriptor}", descriptor)
        except (OSError, ValueError, MemoryError):
            return None

    @classmethod
    def open(cls, description: str) -> SharedMemory | None:
        """The worker's end; None where `description` does not lead to such memory.

        A descriptor is taken only if it is what `create` makes: a file of this user without a name,
        of this size. So no file that has a name can be mapped by a wrong description.
        """
        found = _DESCRIPTION.fullmatch(description)
        if found is None:
            return None
        kind, where = found.groups()
        try:
            if sys.platform == "win32":
                # A name that does not exist gives new memory, in which the nonce is missing.
                return cls(mmap.mmap(-1, 2 * RING_BYTES, tagname=where)) if kind == "name" else None
            if kind != "descriptor":
                return None
            descriptor = int(where)
            if not _is_ours(os.fstat(descriptor)):
                return None
            memory = mmap.mmap(descriptor, 2 * RING_BYTES)
            os.close(descriptor)  # the mapping stays; children of the worker inherit nothing
            return cls(memory)
        except (OSError, ValueError, OverflowError):
            return None

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that the worker must inherit."""
        return (self._descriptor,) if self._descriptor >= 0 else ()

    def started(self) -> None:
        """The worker runs (or will not): the descriptor is no longer needed here."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RingWriter:
    """Puts bytes into a ring. A notice goes to the reader for each piece, and one comes back for
    what it has taken."""

    def __init__(self, ring: npt.NDArray[np.uint8]) -> None:
        self._ring = ring
        self._place = 0
        self._free = len(ring)

    def write(self, data: memoryview) -> int:
        """Copy as much as there is room for, and return how much: 0 where the ring is full."""
        count = min(len(data), self._free, len(self._ring) - self._place)
        if count:
            self._ring[self._place : self._place + count] = np.frombuffer(data[:count], np.uint8)
            self._place = (self._place + count) % len(self._ring)
            self._free -= count
        return count

    def taken(self, count: int) -> None:
        """The reader has copied so much. Raises ProtocolError where it was never put there."""
        if not 0 < count <= len(self._ring) - self._free:
            raise ProtocolError(f"{count!r:.40} bytes were taken that were not sent.")
        self._free += count


class RingReader:
    """Takes the bytes out again, in the same order."""

    def __init__(self, ring: npt.NDArray[np.uint8]) -> None:
        self._ring = ring
        self._place = 0

    def read(self, into: memoryview) -> None:
        """Copy the next bytes into a buffer, at most as many as the ring holds."""
        target = np.frombuffer(into, np.uint8)
        while target.size:
            part = self._ring[self._place : self._place + target.size]
            target[: part.size] = part
            self.skip(part.size)
            target = target[part.size :]

    def skip(self, count: int) -> None:
        self._place = (self._place + count) % len(self._ring)


def _unnamed_file(size: int) -> int:
    """A descriptor of a file without a name that only this user can open, `size` bytes long."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # some sandboxes and builds lack it
            flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
            descriptor = os.memfd_create("oflsam2", flags)
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, size)
            _seal(descriptor)
            return descriptor
    with tempfile.TemporaryFile(prefix="oflsam2-", buffering=0) as file:
        # Written, not only made long: where the disk is full this fails here, in words, and not
        # later with a signal.
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
        return os.dup(file.fileno())


def _seal(descriptor: int) -> None:
    """Neither side can cut the file short, which would end the other at its next access."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError, AttributeError):
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def _is_ours(status: os.stat_result) -> bool:
    return (
        sys.platform != "win32"
        and stat.S_ISREG(status.st_mode)
        and status.st_nlink == 0
        and status.st_uid == os.geteuid()
        and status.st_size == 2 * RING_BYTES
    )
