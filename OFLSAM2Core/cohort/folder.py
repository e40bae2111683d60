"""The folder of a cohort: one run at a time, and workers that know whether it is still theirs."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from OFLSAM2Core.cohort.manifest import FILE_NAME, ManifestContent, read_manifest
from OFLSAM2Core.errors import Cancelled, InputError, OFLSAM2Error, ResourceError
from OFLSAM2Core.runtime.atomic_write import atomic_write

PREVIEWS = "previews"
REPORT = "report.html"
TASK = "task.oflsam2"
UNFINISHED = ".unfinished"
"""Where outputs are until all of a case's are there."""

_LOCK, _RUN = ".lock", ".run"


def check_folder(folder: Path) -> None:
    """Before the work: the folder can be made, or is empty, or holds a cohort.

    Raises InputError.
    """
    if not folder.parent.is_dir():
        raise InputError(
            f"The output folder '{folder.parent}' does not exist.",
            "Create it, or choose another one.",
        )
    try:
        there = list(folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise InputError(
            f"The output folder '{folder}' cannot be used: {error.strerror}.",
            "Choose another one.",
        ) from error
    others = [path.name for path in there if path.name not in (_LOCK, _RUN)]
    if others and FILE_NAME not in others:
        raise InputError(
            f"The output folder '{folder}' is not empty ('{others[0]}') and holds no cohort.",
            "Choose a new folder, so that nothing in it is lost.",
        )


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Make the folder where it is not there, and hold it: a second run is refused with InputError
    until this one ends, however it does."""
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"Another run is writing into '{folder}'{_described(folder)}.",
            "Wait until it has ended, or choose another --out.",
        ) from None
    except OSError as error:
        raise ResourceError(
            f"The folder '{folder}' cannot be locked: {error.strerror}.",
            "Choose a writable --out on a disk that knows locks.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_running(content: ManifestContent, host: str) -> bool | None:
    """Whether the last run of a manifest still runs; None where it was on another computer."""
    if content.ended is not None or not content.runs:
        return False
    run = content.runs[-1]
    if run.get("host") != host:
        return None
    return psutil.pid_exists(int(run.get("pid", -1)))


def _described(folder: Path) -> str:
    with suppress(OFLSAM2Error):
        content = read_manifest(folder)
        if content.runs and content.ended is None:
            run = content.runs[-1]
            return f" (process {run.get('pid')} on {run.get('host')})"
    return ""


def start_run(folder: Path) -> str:
    """A new run begins: what earlier ones left unfinished goes, and workers of theirs that still
    work publish nothing more. Returns the run's mark, for `check_still_wanted`."""
    mark = secrets.token_hex(8)
    with atomic_write(folder / _RUN) as temporary:
        temporary.write_text(mark)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return mark


def end_run(folder: Path) -> None:
    """Mark the run as ended, so that workers that still run stop by themselves."""
    with suppress(OSError):
        (folder / _RUN).unlink()
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def check_still_wanted(folder: Path, mark: str) -> None:
    """Raises Cancelled in a worker whose run has ended or was followed by another."""
    try:
        current = (folder / _RUN).read_text()
    except FileNotFoundError:
        current = ""
    if current != mark:
        raise Cancelled("The run that asked for this case has ended.")
