"""What went wrong, as the fields of a "failed" event."""

from __future__ import annotations

import errno
from pathlib import Path

from OFLSAM2Core.errors import OFLSAM2Error

# What a path can be wrong in.
_OF_PATHS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EPERM)
_LONGEST = 120

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "can't start new thread",
    "cannot allocate memory",
    "std::bad_alloc",
)


def failure_of(error: BaseException, log_file: Path | None = None) -> dict[str, str]:
    """kind, message and hint. Errors raised on purpose speak for themselves; a lack of memory, disk
    or packages is "resource"; everything else is "bug"."""
    if isinstance(error, OFLSAM2Error):
        return _failed(error.kind, error.message, error.hint)
    if is_out_of_memory(error):
        return _failed(
            "resource",
            "There was not enough memory for this.",
            "Close other programs, choose device 'cpu', a smaller backbone or the 'fast' preset, "
            "or crop the volume.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failed("resource", "The disk is full.", "Free some space and try again.")
    if isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename:
        name = str(error.filename)
        return _failed(
            "input",
            f"'{name if len(name) <= _LONGEST else name[:_LONGEST] + '...'}' cannot be used: "
            f"{error.strerror}.",
            "Check the path.",
        )
    if isinstance(error, ModuleNotFoundError):
        return _failed(
            "resource",
            f"The worker's Python lacks the package '{error.name}'.",
            "Install the packages that oflsam2 needs in that Python, or choose another one.",
        )
    where = f" with the log file '{log_file}'" if log_file else ""
    return _failed(
        "bug",
        f"Something went wrong inside the program: {type(error).__name__}: {error}",
        f"Please report this{where}.",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, and what PyTorch and OpenVINO raise instead (known here by name and words)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def _failed(kind: str, message: str, hint: str) -> dict[str, str]:
    return {"kind": kind, "message": message, "hint": hint}
