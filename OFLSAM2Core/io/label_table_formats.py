"""Files that say what label values mean, as other programs write them.

Kinds: JSON (our own, nnU-Net's and the Decathlon's `dataset.json`), ITK-SNAP's label descriptions,
colour tables of Slicer and FreeSurfer, and tables with a header line (BIDS' `dseg.tsv`, Slicer's
newer `.csv`).
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import stat
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
"""label, name, and where known color (three numbers from 0 to 1) and terminology."""

_VALUE_COLUMNS = (
    "labelvalue",
    "label value",
    "index",
    "value",
    "id",
    "label",
    "idx",
    "no.",
    "number",
)
_NAME_COLUMNS = ("name", "label name", "labelname", "structure", "segment", "text", "label")


_MOST_BYTES = 16_000_000


def read_text(path: Path) -> str:
    """The text of a file, in UTF-8 or with a byte order mark of UTF-16, else Latin-1.

    Raises OSError, or ValueError where it is no file or far too large.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError("it is far larger than a label table")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def parse(text: str) -> list[Entry] | Any:
    """Entries of a text table, or what JSON holds. Raises ValueError saying what is wrong."""
    start = text.lstrip()[:1]
    if start in ("{", "[", '"') or not text.strip():
        return json.loads(text)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    entries = _with_header(lines) if lines else None
    if entries is None:
        entries = [_of_line(line) for line in lines]
    if not entries:
        raise ValueError("it names no labels")
    return entries


def entries_of_json(data: Any) -> list[Entry]:
    """From `{"1": "liver"}`, nnU-Net's `{"liver": 1}`, a list of entries, or an object with one of
    these under "labels". Raises KeyError, TypeError or ValueError."""
    if isinstance(data, dict) and isinstance(data.get("labels"), (dict, list)):
        data = data["labels"]
    if isinstance(data, list):
        return [dict(entry) for entry in data]
    if not isinstance(data, dict):
        raise TypeError(f"{type(data).__name__} is no table")
    if data and all(not _is_whole(key) for key in data):
        several = [name for name, value in data.items() if isinstance(value, (list, tuple))]
        if several:
            raise ValueError(
                f"'{several[0]}' is a region of several values; give one value a structure"
            )
        return [{"label": _whole(value), "name": name} for name, value in data.items()]
    return [{"label": _whole(value), "name": str(data[value])} for value in data]


def _is_whole(value: Any) -> bool:
    return bool(re.fullmatch(r"\s*[+-]?\d+\s*", str(value)))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def _with_header(lines: list[str]) -> list[Entry] | None:
    """A table whose first line names its columns; None for another one."""
    mark = "\t" if "\t" in lines[0] else ";" if ";" in lines[0] else ","
    if mark not in lines[0]:
        return None
    rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=mark))
    names = [name.strip().lower() for name in rows[0]]
    value = next((names.index(name) for name in _VALUE_COLUMNS if name in names), None)
    name = next((names.index(n) for n in _NAME_COLUMNS if n in names), None)
    if value is None or name is None or value == name:
        return None
    entries = []
    for row in rows[1:]:
        if len(row) <= max(value, name):
            raise ValueError(f"the line '{mark.join(row)[:60]}' has too few columns")
        entry: Entry = {"label": _whole(row[value].strip()), "name": row[name].strip()}
        color = _color_of({column: cell.strip() for column, cell in zip(names, row, strict=False)})
        entries.append(entry if color is None else {**entry, "color": color})
    return entries


def _color_of(row: dict[str, str]) -> list[float] | None:
    found = re.fullmatch(r"#([0-9a-fA-F]{6})", row.get("color", ""))
    if found:
        return [int(found[1][at : at + 2], 16) / 255 for at in (0, 2, 4)]
    try:
        parts = [float(row[f"color_{part}"]) for part in "rgb"]
    except (KeyError, ValueError):
        return None
    return [part / 255 for part in parts] if max(parts) > 1 else parts


def _of_line(line: str) -> Entry:
    """ITK-SNAP: index, red, green, blue, alpha, visible, mesh, "name". Slicer and FreeSurfer:
    index, name, red, green, blue, alpha."""
    words = shlex.split(line, comments=False) if '"' in line else line.split()
    if (
        len(words) >= 8
        and all(_is_whole(word) for word in (words[0], *words[5:7]))
        and all(_is_number(word) for word in words[1:5])
    ):
        return _entry(words[0], " ".join(words[7:]), words[1:4])
    numbers = len(words) - 1
    while numbers > 1 and _is_number(words[numbers]):
        numbers -= 1
    colors = words[numbers + 1 :]
    if len(words) < 2 or not _is_whole(words[0]) or len(colors) not in (0, 3, 4):
        raise ValueError(f"the line '{line[:60]}' names no label")
    return _entry(words[0], " ".join(words[1 : numbers + 1]), colors[:3])


def _entry(value: str, name: str, colors: list[str]) -> Entry:
    entry: Entry = {"label": int(value), "name": name}
    if len(colors) == 3:
        entry["color"] = [min(max(float(part) / 255, 0.0), 1.0) for part in colors]
    return entry


def _is_number(word: str) -> bool:
    return bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", word))
