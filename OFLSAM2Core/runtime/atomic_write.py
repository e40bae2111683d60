"""Files that are written whole or not at all, so that what was there is not lost half way."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from OFLSAM2Core.errors import ResourceError
from OFLSAM2Core.runtime.temporary import registered

_PREFIX = ".writing-"
_DOUBLE = (".nii.gz", ".seg.nrrd", ".seg.nhdr", ".img.gz")
_LONGEST_EXTENSION = 16  # characters; what is longer is no extension but a name with a dot


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; at the end it becomes `path`, or vanishes.

    What was written is on the disk before it becomes `path`: after a power cut there is the old
    file or the new one. The temporary name has the same extension, for writers that go by it.
    Raises ResourceError where writing fails (a full disk, say).
    """
    path = Path(path)
    with _errors_in_words(path), registered(temporary_name(path)) as temporary:
        # As the user's umask has it, and never through a link that somebody put there.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        if os.name == "posix":
            _to_disk(path.parent)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nothing has yet, not longer than 40 characters."""
    lower = path.name.lower()
    extension = next((one for one in _DOUBLE if lower.endswith(one)), path.suffix)
    if len(extension) > _LONGEST_EXTENSION:
        extension = ""
    return path.with_name(f"{_PREFIX}{secrets.token_hex(6)}{extension}")


@contextmanager
def _errors_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        # Without the temporary name, where the system says one.
        lines = str(error).strip().splitlines()
        why = getattr(error, "strerror", None) or (lines[-1] if lines else type(error).__name__)
        raise ResourceError(
            f"'{path}' could not be written: {why.rstrip('.')}.",
            "Check that the disk has space and the folder is writable.",
        ) from error


def _to_disk(path: Path) -> None:
    """Ask the system to write a file's content, or a folder's list of files, to the disk now."""
    number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        # Some network and virtual disks cannot; what they can is done by then.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS):
            raise
    finally:
        with suppress(OSError):
            os.close(number)
