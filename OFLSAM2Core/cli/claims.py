"""One process writes an output at a time: a second one would replace it, and both would say that
they went well."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from OFLSAM2Core.errors import InputError

_held: list[FileLock] = []
"""Until the process ends, however it does."""


def claim_output(path: Path) -> None:
    """Keep an output file or folder for this process. Where no lock can be made, do without.

    Raises InputError where another process on this computer has it.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    folder = Path(tempfile.gettempdir()) / f"oflsam2.locks-{user}"
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    lock = FileLock(folder / f"{name[:32]}.lock")
    if any(held.lock_file == lock.lock_file for held in _held):
        return
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Another process is writing '{path}'.",
            "Wait until it has ended, or choose another output name.",
        ) from error
    except (OSError, NotImplementedError):
        return
    _held.append(lock)
