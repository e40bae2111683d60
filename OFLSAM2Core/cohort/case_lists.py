"""Lists of cases in a file: CSV, TSV, JSON, MONAI's datalist, nnU-Net's `dataset.json`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from OFLSAM2Core.data.validation import MOST_VOLUMES
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_names import split_images

LIST_EXTENSIONS = (".csv", ".tsv", ".json")

_IMAGE_COLUMNS = ("image", "volume", "path", "file", "source")
_NAME_COLUMNS = ("case", "name", "id", "case_id", "subject")
_TO_SEGMENT = ("testing", "test", "inference")
"""Sections of a datalist that hold what is to be segmented."""

_FORMS = (
    "A CSV or TSV file has a column 'image' (and 'case' for names); a JSON file is a list of paths "
    'or of {"image": path}, or a datalist with such a list as "testing".'
)


Entry = tuple[str | None, tuple[Path, ...]]
"""Name, and paths of the co-registered volumes, of a case."""


def is_list(path: Path) -> bool:
    return path.suffix.lower() in LIST_EXTENSIONS


def read_case_list(path: Path, section: str | None = None) -> list[Entry]:
    """Name (None where the list has none) and paths of every case, in the list's order: several of
    co-registered volumes (IMAGE+IMAGE2, or a list of them).

    Relative paths are taken from the list's own folder. section: of a datalist, another one than
    "testing" or "test". Raises InputError naming the file: unreadable, of another form, without
    cases, or too many volumes a case.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list '{path}' cannot be read: {error}.", _FORMS) from error
    if path.suffix.lower() == ".json":
        entries = _of_json(path, text, section)
    else:
        entries = _of_table(path, text)
    if not entries:
        raise InputError(f"The list '{path}' has no cases.", _FORMS)
    return entries


def _of_table(path: Path, text: str) -> list[Entry]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return []
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(lines[0])
    rows = csv.DictReader(lines, delimiter=delimiter)
    columns = {(column or "").strip().lower(): column for column in rows.fieldnames or ()}
    image = next((columns[key] for key in _IMAGE_COLUMNS if key in columns), None)
    name = next((columns[key] for key in _NAME_COLUMNS if key in columns), None)
    if image is None:
        raise InputError(f"The list '{path}' has no column 'image'.", _FORMS)
    entries: list[Entry] = []
    for number, row in enumerate(rows, start=2):
        value = (row.get(image) or "").strip()
        if not value:
            raise InputError(f"The list '{path}' names no image in line {number}.", _FORMS)
        own = (row.get(name) or "").strip() or None if name else None
        entries.append((own, _split(path, value)))
    return entries


def _delimiter(header: str) -> str:
    """Spreadsheets in many languages separate by semicolons."""
    return max(",;\t", key=header.count)


def _of_json(path: Path, text: str, section: str | None) -> list[Entry]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"The list '{path}' is not JSON: {error}.", _FORMS) from error
    if isinstance(content, Mapping):
        content = _section(path, content, section)
    elif section is not None:
        raise InputError(f"The list '{path}' has no sections, so no '{section}'.", _FORMS)
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise InputError(f"The list '{path}' is of another form.", _FORMS)
    return [_entry(path, entry) for entry in content]


def _section(path: Path, content: Mapping[str, Any], section: str | None) -> Any:
    lists = [key for key, value in content.items() if isinstance(value, list) and value]
    wanted = [section] if section is not None else [key for key in _TO_SEGMENT if key in lists]
    if not wanted or wanted[0] not in lists:
        missing = f"no section '{section}'" if section else 'no list "testing" or "test"'
        listed = ", ".join(f"'{path}#{key}'" for key in lists)
        raise InputError(
            f"The list '{path}' has {missing}.",
            f"Choose one by its name: {listed}." if lists else _FORMS,
        )
    return content[wanted[0]]


def _entry(path: Path, entry: Any) -> Entry:
    name = None
    if isinstance(entry, Mapping):
        name = next((str(entry[key]) for key in _NAME_COLUMNS if entry.get(key)), None)
        entry = next((entry[key] for key in _IMAGE_COLUMNS if key in entry), None)
    images = entry if isinstance(entry, list) else [entry]
    if not images or not all(isinstance(image, str) and image for image in images):
        raise InputError(f"The list '{path}' holds something that is no path: {entry!r}.", _FORMS)
    if len(images) > MOST_VOLUMES:
        raise InputError(
            f"The list '{path}' gives {len(images)} images (channels) for one case.",
            f"List {MOST_VOLUMES} at most a case: those that the task was learned from.",
        )
    if isinstance(entry, list) and len(images) > 1:
        return name, tuple(path.parent / Path(image).expanduser() for image in images)
    return name, _split(path, images[0])


def _split(path: Path, text: str) -> tuple[Path, ...]:
    try:
        return split_images(text, path.parent)
    except InputError as error:
        raise InputError(f"The list '{path}': {error.message}", error.hint) from error
