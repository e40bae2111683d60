"""Text without what may name a patient, for files that are sent along with a report of a fault.

A log records what happened where in the program. Which patient it happened to stands in names of
files, folders, nodes and series, all of which reach messages. What is left out:

- what stands in quotes: every message of this package puts names there;
- every word that looks like a path or an image's file name, and the names given to `keep_out`;
- what comes after the first line of a message, where lists of series and the like stand.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

LEFT_OUT = "<...>"

# An apostrophe within a word neither opens nor closes.
_QUOTED = re.compile(r"(?<!\w)'[^\n]*?'(?!\w)|\"[^\"\n]*\"|`[^`\n]*`")
# A drive, a leading slash or tilde, or a separator within a word.
_PATH = re.compile(r"(?:[A-Za-z]:)?[^\s:;,()]*[/\\][^\s;,()]*")
_FILE = re.compile(
    r"\S+\.(?:nii|gz|nrrd|nhdr|mha|mhd|hdr|img|dcm|dicom|ima|mgz|png|jpe?g|tiff?|zip|json|csv|txt"
    r"|oflsam2)\b",
    re.IGNORECASE,
)
_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")

_SHORTEST = 3  # A shorter name would black out half of the text.
_LONGEST = 1000  # characters

_names: set[str] = set()


def keep_out(names: Iterable[object]) -> None:
    """Leave these names, and the last part of those that are paths, out of every log."""
    for name in names:
        text = str(name)
        for part in (text, Path(text).name, Path(text).stem.split(".")[0]):
            if len(part) >= _SHORTEST:
                _names.add(part)


def redacted(text: str) -> str:
    """First line of `text` without quoted names, paths, file names, UIDs, and names kept out."""
    text = text.split("\n", 1)[0][:_LONGEST]
    for name in sorted(_names, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", LEFT_OUT, text)
    for pattern in (_QUOTED, _FILE, _PATH, _UID):
        text = pattern.sub(LEFT_OUT, text)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats a record, and the traceback that it may carry, without names.

    A traceback keeps the places in the code and the kinds of error; messages keep what
    `redacted` leaves. Stack frames show code, never values.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        own = logging.makeLogRecord(vars(record))
        own.message = redacted(record.message)
        return super().formatMessage(own)

    def formatException(self, ei: object) -> str:  # noqa: N802
        error = ei[1] if isinstance(ei, tuple) else None
        return "" if error is None else _places(error)

    def format(self, record: logging.LogRecord) -> str:
        # A traceback that another handler has formatted is kept in the record, whole.
        record = logging.makeLogRecord(vars(record))
        record.exc_text = None
        return super().format(record)


def _places(error: BaseException) -> str:
    """Traceback of an error and of what caused it, the cause first; messages as `redacted`."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = traceback.extract_tb(current.__traceback__)
        where = [f"  {_in_package(f.filename)}:{f.lineno} in {f.name}" for f in frames]
        lines = [f"{type(current).__name__}: {redacted(str(current))}", *where, *lines]
        current = current.__cause__ or current.__context__
    return "\n".join(lines)


def _in_package(file: str) -> str:
    """A source file by its package: the folder that it is installed in may name a person."""
    parts = Path(file).parts
    for root in ("site-packages", "dist-packages", "OFLSAM2Core"):
        if root in parts:
            at = len(parts) - 1 - parts[::-1].index(root)
            return "/".join(parts[at if root == "OFLSAM2Core" else at + 1 :])
    return Path(file).name
