"""Standard output and error that may be closed, or go to a program that has had enough.

A job of ten minutes does not end because `| head -1` stopped listening, and does not say that it
went well because nobody could read otherwise: messages go nowhere, the work goes on.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

_NOBODY_LISTENS = (errno.EPIPE, errno.EBADF, errno.EIO, errno.EINVAL)
"""A pipe without a reader; a stream closed by `>&-`; a terminal that is gone; Windows' word."""


def ready_streams() -> None:
    """Make stdout and stderr of this process ones that always can be printed to.

    A full disk under stdout (`> report.txt`) is still an error, OSError: what was wanted there
    would be lost. Nothing that happens to stderr stops the work.
    """
    sys.stdout = _ready(sys.stdout, 1, _NOBODY_LISTENS)
    sys.stderr = _ready(sys.stderr, 2, None)


def flush_streams() -> None:
    """To be called where a command has done its work. Raises OSError as `print` does."""
    sys.stdout.flush()


def _ready(stream: TextIO | None, number: int, passed: tuple[int, ...] | None) -> TextIO:
    if stream is None:  # Closed when the program started.
        return open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  For the whole process.
    # A FileIO where PYTHONUNBUFFERED is set.
    ours = io.BufferedWriter | io.FileIO
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(stream.buffer, ours):
        return stream  # Somebody else's, such as a test's.
    with suppress(OSError, ValueError):
        stream.flush()
        if stream.fileno() == number:
            return io.TextIOWrapper(
                io.BufferedWriter(_Patient(number, passed)),
                encoding=stream.encoding,
                # A file or pipe on Windows may know no name of another script.
                errors="backslashreplace",
                line_buffering=stream.line_buffering or stream.write_through or number == 2,
                write_through=number == 2,
            )
    return stream


class _Patient(io.FileIO):
    """Bytes that nobody can take are dropped, from then on all of them.

    passed: the errors that count as that; None: all.
    """

    def __init__(self, number: int, passed: tuple[int, ...] | None) -> None:
        super().__init__(number, "w", closefd=False)
        self._passed = passed
        self._dropped = False

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if self._dropped:
            return size
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self._dropped = True  # Else Python would try once more at its end, and complain.
            if self._passed is not None and error.errno not in self._passed:
                raise
            return size
