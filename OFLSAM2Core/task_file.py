"""The file of a learned task: a zip of `task.json` and `tensors.safetensors`, checked before use.

Sizes are looked at before anything is unpacked, the content by its own SHA-256 and by a schema
before anything is built of it. A file that somebody made by hand is refused like a damaged one.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from OFLSAM2Core.data.validation import MOST_VOLUMES
from OFLSAM2Core.errors import ResourceError, TaskError
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2Core.runtime.memory_check import require_memory

JSON_NAME, TENSORS_NAME, DIGEST = "task.json", "tensors.safetensors", "sha256"

_MOST_JSON = 16_000_000
_MOST_PACKED = 200  # Masks shrink to a hundredth; a bomb of zeros to a thousandth.
_SMALL = 64_000_000  # is small enough whatever it shrinks to
_MOST_NESTED = 32
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def write_task_file(path: Path, contents: Mapping[str, Any], tensors: bytes) -> None:
    """Write the file whole or not at all. Raises ResourceError where that fails."""
    contents = {**contents, DIGEST: _digest(contents, tensors)}
    with (
        atomic_write(path) as temporary,
        # Memory is mostly masks, which shrink to a hundredth even at the quickest level.
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        archive.writestr(JSON_NAME, json.dumps(contents, indent=1, allow_nan=False))
        archive.writestr(TENSORS_NAME, tensors)


def read_task_file(path: Path, version: int) -> tuple[dict[str, Any], bytes]:
    """What the file says, checked against the schema, and the bytes of its tensors.

    version: of the format that is read here.
    Raises TaskError where it is missing, damaged, changed, of another kind or format version;
    ResourceError where its tensors do not fit into memory.
    """
    try:
        if not path.is_file():
            raise TaskError(f"The learned task '{path}' does not exist.", "Check the path.")
        with zipfile.ZipFile(path) as archive:
            text = archive.read(_entry(path, archive, JSON_NAME, _MOST_JSON))
            contents = _parsed(path, text)
            _check_version(path, contents, version)
            entry = _entry(path, archive, TENSORS_NAME, None)
            require_memory(2.5 * entry.file_size, f"The learned task '{path}'", _REMEDY)
            tensors = archive.read(entry)
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,  # A damaged entry names a compression that there is not.
        RuntimeError,  # One has a password.
        OSError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        raise damaged_task(path) from error
    except MemoryError as error:
        raise ResourceError(f"There is not enough memory to read '{path}'.", _REMEDY) from error
    if contents.pop(DIGEST, None) != _digest(contents, tensors):
        raise damaged_task(path, "what it holds is not what was written")
    _check_schema(path, contents)
    return contents, tensors


def damaged_task(path: Path, why: str = "") -> TaskError:
    """The error for a file that cannot be used."""
    detail = f" ({why})" if why else ""
    return TaskError(
        f"'{path}' is not a readable learned task: it is cut off, damaged, or of another "
        f"kind{detail}.",
        "Learn it again from the support cases.",
    )


_REMEDY = "Close other programs, or learn it again from fewer or smaller support cases."


def _entry(path: Path, archive: zipfile.ZipFile, name: str, most: int | None) -> zipfile.ZipInfo:
    """A member by name, found to be of a size that may be unpacked."""
    entries = [entry for entry in archive.infolist() if entry.filename == name]
    if len(entries) != 1 or entries[0].compress_type not in _METHODS:
        raise damaged_task(path, f"'{name}' is not in it once")
    entry = entries[0]
    grows = entry.file_size > _SMALL and entry.file_size > _MOST_PACKED * entry.compress_size
    if grows or (most is not None and entry.file_size > most):
        raise damaged_task(path, f"'{name}' would unpack to {entry.file_size / 1e6:.0f} MB")
    return entry


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no number")

    try:
        contents = json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise damaged_task(path, "its JSON is nested too deeply") from error
    if not isinstance(contents, dict):
        raise damaged_task(path, "its JSON is no object")
    return contents


def _check_version(path: Path, contents: Mapping[str, Any], version: int) -> None:
    found = contents.get("format")
    if not isinstance(found, int) or isinstance(found, bool):
        raise damaged_task(path, "it has no format version")
    if found != version:
        raise TaskError(
            f"'{path}' has format version {found}; this version of oflsam2 reads {version}.",
            "Update oflsam2, or learn the task again from the support cases.",
        )


def _digest(contents: Mapping[str, Any], tensors: bytes) -> str:
    """SHA-256 of what the JSON means, however it is written, and of the tensors' bytes."""
    canonical = json.dumps(contents, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode() + b"\0" + hashlib.sha256(tensors).digest()).hexdigest()


# The schema


def _check_schema(path: Path, contents: Mapping[str, Any]) -> None:
    state = contents.get("state")
    rules: list[tuple[str, Any, Callable[[Any], bool]]] = [
        ("structures", contents.get("structures"), _are_structures),
        ("method", contents.get("method"), _is_name),
        ("options", contents.get("options"), _are_options),
        ("backbone", contents.get("backbone"), lambda value: value == "" or _is_name(value)),
        ("backbone_identity", contents.get("backbone_identity"), _is_identity),
        ("backbone_precision", contents.get("backbone_precision"), _is_precision),
        ("volume_count", contents.get("volume_count"), _is_volume_count),
        ("state", state, lambda value: isinstance(value, dict)),
    ]
    if isinstance(state, dict):
        rules += [
            ("state.version", state.get("version"), _is_whole),
            ("state.metadata", state.get("metadata"), lambda value: isinstance(value, dict)),
            ("state.summary", state.get("summary"), lambda value: isinstance(value, dict)),
        ]
    for name, value, holds in rules:
        if not holds(value):
            raise damaged_task(path, f"'{name}' is not what it should be")
    if not _is_shallow(contents, _MOST_NESTED):
        raise damaged_task(path, "its JSON is nested too deeply")


def _are_structures(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 1 <= len(value) <= 255
        and all(isinstance(entry, dict) and _is_structure(entry) for entry in value)
        and len({entry["label"] for entry in value}) == len(value)
    )


def _is_structure(entry: Mapping[str, Any]) -> bool:
    color = entry.get("color", [0, 0, 0])
    return (
        isinstance(entry.get("name"), str)
        and bool(entry["name"].strip())
        and _is_whole(entry.get("label"))
        and 1 <= entry["label"] <= 255
        and isinstance(color, list)
        and len(color) == 3
        and all(_is_number(part) and 0 <= part <= 1 for part in color)
        and isinstance(entry.get("terminology", ""), str)
    )


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, str | bool) or _is_number(each) for each in value.values()
    )


def _is_identity(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200


def _is_precision(value: Any) -> bool:
    return value in ("float32", "bfloat16", "float16")


def _is_volume_count(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= MOST_VOLUMES


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 31


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 53


def _is_shallow(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inside = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inside)
