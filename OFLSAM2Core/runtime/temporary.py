"""Temporary files and folders that vanish however the process ends, but by force.

A `with` block removes them as a rule. A process that ends at once (`os._exit`, because a thread
is inside PyTorch and cannot be waited for) calls `remove_temporary` first.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_lock = threading.RLock()  # A signal handler may come while the same thread holds it.
_paths: set[Path] = set()


@contextmanager
def registered(path: Path) -> Iterator[Path]:
    """A path that is removed at the end of the block where it is still there."""
    with _lock:
        _paths.add(path)
    try:
        yield path
    finally:
        _remove(path)
        with _lock:
            _paths.discard(path)


@contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = "oflsam2-") -> Iterator[Path]:
    """A folder for its owner only, beside the system's other temporary ones or in `parent`."""
    with registered(Path(tempfile.mkdtemp(prefix=prefix, dir=parent))) as folder:
        yield folder


def remove_temporary() -> None:
    """Remove all that is still there; for the end of a process."""
    with _lock:
        for path in list(_paths):
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
        return
    shutil.rmtree(path, ignore_errors=True)
