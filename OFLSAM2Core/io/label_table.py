"""What the values of a labelmap mean: names, colours and terminology, from a JSON file."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from OFLSAM2Core.data.structures import Structure, check_structures
from OFLSAM2Core.errors import InputError


@dataclass(frozen=True)
class LabelTable:
    """The structures that the values of labelmaps stand for.

    name: what messages call the table (its file, usually).
    """

    structures: tuple[Structure, ...]
    name: str = "label table"

    @classmethod
    def read(cls, path: str | Path) -> LabelTable:
        """Read a JSON file: what `from_json` takes, or an object with that under "labels".

        Raises InputError naming the file: missing, no JSON, not a label table.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"The label table '{path}' cannot be read: {error.strerror}.", "Check the path."
            ) from error
        except ValueError as error:
            raise InputError(f"The label table '{path}' is not JSON: {error}.", _FORM) from error
        if isinstance(data, dict) and isinstance(data.get("labels"), (dict, list)):
            data = data["labels"]
        return cls.from_json(data, str(path))

    @classmethod
    def from_json(cls, data: Any, name: str = "label table") -> LabelTable:
        """`{"1": "left atrium", ...}`, or a list of `{"name", "label"[, "color", "terminology"]}`.

        The value 0 is background and is left out. Structures without a colour get one of their
        own. Raises InputError naming the table.
        """
        try:
            entries: list[dict[str, Any]]
            if isinstance(data, dict):
                entries = [{"label": int(value), "name": str(data[value])} for value in data]
            else:
                entries = [dict(entry) for entry in data]
            structures = tuple(
                Structure.from_json({"color": default_color(int(entry["label"])), **entry})
                for entry in entries
                if int(entry["label"]) != 0
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"'{name}' is not a label table: {error!r}.", _FORM) from error
        check_structures(structures, f"The label table '{name}'")
        return cls(structures, name)

    @classmethod
    def for_values(cls, values: Iterable[int]) -> LabelTable:
        """Call them "Structure 1" and so on, where nothing is known but the values."""
        return cls(
            tuple(
                Structure(f"Structure {value}", int(value), default_color(int(value)))
                for value in values
            )
        )


_FORM = 'Write {"1": "name", "2": "name"} or [{"name": "name", "label": 1, "color": [1, 0, 0]}].'


def default_color(label: int) -> tuple[float, float, float]:
    """A colour for a label value: hues a golden angle apart, so neighbours differ most."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + 0.618034 * (label - 1)) % 1.0, 0.65, 0.9)
    return (round(red, 4), round(green, 4), round(blue, 4))
