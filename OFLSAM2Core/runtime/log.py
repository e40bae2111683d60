"""The log of the command line and the worker: a file in the user's log folder, and a terminal.

The file is for its owner's eyes only, and names no patient, file or folder (runtime/redaction.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from io import TextIOWrapper
from pathlib import Path

from OFLSAM2Core.runtime.redaction import RedactingFormatter

FOLDER_VARIABLE = "OFLSAM2_LOG_DIR"
MAX_BYTES = 2_000_000  # of the file when a program starts; the one before is kept as *.old.log

_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


def start_log(
    program: str,
    *,
    terminal_level: int = logging.WARNING,
    terminal: logging.Handler | None = None,
) -> Path | None:
    """Send log messages and Python warnings to `<log folder>/<program>.log` and to a terminal.

    The file gets this package's messages from INFO and others' from WARNING. terminal: what
    messages from `terminal_level` on are given to; without it they go to stderr as to the file.
    Returns the file's path, or None where it cannot be written: work goes on without.
    """
    formatter = RedactingFormatter(_FORMAT)
    root = logging.getLogger()
    if terminal is None:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.setFormatter(formatter)
    terminal.setLevel(terminal_level)
    handlers = [terminal]
    path = log_folder() / f"{program}.log"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _roll(path)
        file = _OwnersFile(path, encoding="utf-8")
        file.setFormatter(formatter)
        handlers.append(file)
        problem = None
    except OSError as error:
        problem = error
    for handler in handlers:
        root.addHandler(handler)
    logging.getLogger("OFLSAM2Core").setLevel(logging.INFO)
    logging.captureWarnings(True)
    if problem is not None:
        logging.getLogger(__name__).warning("There is no log file: %s.", problem.strerror)
        return None
    return path


def log_folder() -> Path:
    """The folder of the log files; the environment variable OFLSAM2_LOG_DIR overrides it."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "oflsam2" / "Logs"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Logs" / "oflsam2"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "oflsam2"


class _OwnersFile(logging.FileHandler):
    """A file that only its owner can read and write. A full disk does not disturb the work."""

    def _open(self) -> TextIOWrapper:
        number = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if hasattr(os, "fchmod"):  # It may be there already, from before.
            with contextlib.suppress(OSError):
                os.fchmod(number, 0o600)
        return os.fdopen(number, "a", encoding=self.encoding, errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def _roll(path: Path) -> None:
    # Another process may hold the file open, which Windows does not forgive: then it grows on.
    with contextlib.suppress(OSError):
        if path.stat().st_size > MAX_BYTES:
            os.replace(path, path.with_suffix(".old.log"))
