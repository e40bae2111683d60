"""Reading and writing pipes without ever waiting, on the thread that asks.

POSIX has non-blocking descriptors. Windows can tell how much a pipe holds (`PeekNamedPipe`), and
has a mode in which writing does not wait; Python itself knows it from 3.12 on, so it is asked of
the system. Qt's QProcess would do the same inside Slicer alone, with buffers that grow without
bound, and could not hand shared memory to its child.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from io import FileIO

_PIPE_BYTES = 2**20  # Linux gives 64 KiB unless asked; what there is room for needs no further tick

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _PIPE_NOWAIT = wintypes.DWORD(1)
    _WRITE_BYTES = 4096  # a pipe's own size; more would be refused as a whole
    _GONE = (109, 232, 233)  # ERROR_BROKEN_PIPE, ERROR_NO_DATA, ERROR_PIPE_NOT_CONNECTED

    def prepare(reading: Sequence[FileIO], writing: FileIO) -> None:
        """To be called once for the pipes of a process before the functions below."""
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(writing.fileno()))
        _kernel32.SetNamedPipeHandleState(handle, ctypes.byref(_PIPE_NOWAIT), None, None)

    def read_some(stream: FileIO, into: memoryview) -> int | None:
        """How much was read; None where nothing has come yet, 0 at the end."""
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(stream.fileno()))
        there = wintypes.DWORD(0)
        if not _kernel32.PeekNamedPipe(handle, None, 0, None, ctypes.byref(there), None):
            return 0
        return stream.readinto(into[: there.value]) if there.value else None

    def write_some(stream: FileIO, data: memoryview) -> int | None:
        """How much was written; None where there is no room. Raises OSError where nobody reads."""
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(stream.fileno()))
        size = min(len(data), _WRITE_BYTES)
        while size:
            written = wintypes.DWORD(0)
            content = bytes(data[:size])
            if not _kernel32.WriteFile(handle, content, size, ctypes.byref(written), None):
                error = ctypes.get_last_error()
                raise BrokenPipeError() if error in _GONE else ctypes.WinError(error)
            if written.value:
                return written.value
            size //= 2
        return None

    def wait(reading: Sequence[FileIO], writing: Sequence[FileIO], timeout_s: float) -> None:
        """Wait until there may be something to do, or the time is over."""
        time.sleep(min(timeout_s, 0.003))

else:
    import fcntl
    import os
    import select

    def prepare(reading: Sequence[FileIO], writing: FileIO) -> None:
        """To be called once for the pipes of a process before the functions below."""
        for stream in (*reading, writing):
            os.set_blocking(stream.fileno(), False)
            if sys.platform == "linux":
                with contextlib.suppress(OSError, AttributeError):  # a user has so much in all
                    fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def read_some(stream: FileIO, into: memoryview) -> int | None:
        """How much was read; None where nothing has come yet, 0 at the end."""
        return stream.readinto(into)

    def write_some(stream: FileIO, data: memoryview) -> int | None:
        """How much was written; None where there is no room. Raises OSError where nobody reads."""
        return stream.write(data)

    def wait(reading: Sequence[FileIO], writing: Sequence[FileIO], timeout_s: float) -> None:
        """Wait until there may be something to do, or the time is over."""
        poll = select.poll()  # not `select`, which fails above descriptor 1023
        for stream in reading:
            poll.register(stream.fileno(), select.POLLIN)
        for stream in writing:
            poll.register(stream.fileno(), select.POLLOUT)
        poll.poll(1000 * timeout_s)
