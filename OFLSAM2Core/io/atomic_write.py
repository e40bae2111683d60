"""Files that are written whole or not at all, so that what was there is not lost half way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from OFLSAM2Core.errors import ResourceError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name beside `path`; at the end it becomes `path`, or vanishes.

    The temporary name has the same extension, for writers that go by it. Raises ResourceError
    where writing fails (a full disk, say).
    """
    path = Path(path)
    extension = path.name[path.name.find(".", 1) :] if "." in path.name[1:] else ""
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=extension, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # Without the temporary name, where the system says one.
        why = getattr(error, "strerror", None) or str(error).splitlines()[-1]
        raise ResourceError(
            f"'{path}' could not be written: {why.rstrip('.')}.",
            "Check that the disk has space and the folder is writable.",
        ) from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
