"""What all results in a cohort's folder are made with, so that no two kinds of them are mixed.

Left out is what changes no more than roundings: the device, and versions of libraries, which the
manifest records with every case.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from OFLSAM2Core.cohort.fingerprint import fingerprint
from OFLSAM2Core.cohort.manifest import Manifest
from OFLSAM2Core.errors import InputError

_LONGEST = 24
"""Characters of a value that a message shows; longer ones, such as hashes, are left out."""


def check_identity(manifest: Manifest, identity: Mapping[str, Any]) -> None:
    """Raises InputError where the folder's results were made with something else, naming it."""
    before = manifest.content.identity
    if not before:
        return
    differing = [change for key in identity for change in _difference(key, before, identity)]
    if differing:
        raise InputError(
            f"'{manifest.path.parent}' holds results of "
            f"another {', and another '.join(differing)}.",
            "Choose another --out, so that results of two kinds are not mixed in one folder.",
        )


def support_identity(
    cases: Sequence[Sequence[Path]],
    labels: Path | None,
    weights: Path | None,
    settings: Mapping[str, Any],
) -> str:
    """SHA-256 of all that a task learned from support depends on: the contents of images, labels,
    label table and weights file, and the settings of learning.

    Raises InputError where a file cannot be read.
    """
    content = {
        "files": [fingerprint(str(path)).sha256 for files in cases for path in files],
        "labels": fingerprint(str(labels)).sha256 if labels else None,
        "weights": fingerprint(str(weights)).sha256 if weights else None,
        **settings,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _difference(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The key, and in words how its values differ; nothing where they do not.

    Values as JSON has them: what was recorded has been through it.
    """
    known, asked = before.get(key), json.loads(json.dumps(now[key]))
    if known == asked:
        return []
    if isinstance(known, dict) and isinstance(asked, dict):
        names = [name for name in {**known, **asked} if known.get(name) != asked.get(name)]
        changes = "; ".join(f"{name} {_change(known.get(name), asked.get(name))}" for name in names)
        return [f"{key} ({changes})"]
    if max(len(str(known)), len(str(asked))) > _LONGEST:
        return [key]
    return [f"{key} ({_change(known, asked)})"]


def _change(known: Any, asked: Any) -> str:
    return f"{'unknown' if known is None else known}, not {asked}"
