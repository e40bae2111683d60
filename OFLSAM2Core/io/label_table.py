"""What the values of a labelmap mean: names, colours and terminology."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from OFLSAM2Core.data.structures import Structure, check_structures
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_header import missing_file
from OFLSAM2Core.io.label_table_formats import entries_of_json, parse, read_text

MOST_STRUCTURES = 255

_NUMBERED = "Structure"


@dataclass(frozen=True)
class LabelTable:
    """The structures that the values of labelmaps stand for.

    name: what messages call the table (its file, usually).
    values: by structure, its value in files, where that is not the structure's label: values
        above 255 are numbered from 1 on.
    """

    structures: tuple[Structure, ...]
    name: str = "label table"
    values: tuple[int, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> LabelTable:
        """Read a file; see `label_table_formats` for its kinds.

        Raises InputError naming the file: missing, or no label table.
        """
        try:
            data = parse(read_text(Path(path)))
        except FileNotFoundError as error:
            raise missing_file(path) from error
        except OSError as error:
            raise InputError(
                f"The label table '{path}' cannot be read: {error.strerror}.", "Check the path."
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"The label table '{path}' is not JSON nor another known table: {_reason(error)}.",
                _FORM,
            ) from error
        return cls.from_json(data, str(path))

    @classmethod
    def from_json(cls, data: Any, name: str = "label table") -> LabelTable:
        """`{"1": "left atrium", ...}`, `{"left atrium": 1, ...}`, or a list of
        `{"name", "label"[, "color", "terminology"]}`.

        The value 0 is background and is left out. Structures without a colour get one of their
        own. Raises InputError naming the table.
        """
        try:
            found = [
                Structure.from_json({"color": default_color(int(entry["label"])), **entry})
                for entry in entries_of_json(data)
            ]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"'{name}' is not a label table: {_reason(error)}.", _FORM) from error
        found = [structure for structure in found if structure.label != 0]
        if any(structure.label < 0 for structure in found):
            raise InputError(f"The label table '{name}' has negative values.", _FORM)
        table = cls._numbered(found, name)
        # One with more structures than a labelmap can have is narrowed to those that occur.
        check_structures(table.structures[:MOST_STRUCTURES], f"The label table '{name}'")
        return table

    @classmethod
    def for_values(cls, values: Iterable[int]) -> LabelTable:
        """Call them "Structure 1" and so on, where nothing is known but the values."""
        found = [int(value) for value in values]
        return cls._numbered(
            [Structure(f"{_NUMBERED} {value}", value, default_color(value)) for value in found],
            "label table",
        )

    @classmethod
    def _numbered(cls, found: list[Structure], name: str) -> LabelTable:
        if all(structure.label <= MOST_STRUCTURES for structure in found):
            return cls(tuple(found), name)
        return cls(
            tuple(replace(one, label=number) for number, one in enumerate(found, start=1)),
            name,
            tuple(structure.label for structure in found),
        )

    def label_of(self) -> dict[int, int]:
        """Value in a file to label."""
        labels = [structure.label for structure in self.structures]
        return dict(zip(self.values or labels, labels, strict=True))

    def narrowed(self, values: Iterable[int]) -> LabelTable:
        """Itself; of a table with more structures than a labelmap can have, those that occur."""
        if len(self.structures) <= MOST_STRUCTURES:
            return self
        wanted = set(values)
        pairs = zip(self.values or range(1, len(self.structures) + 1), self.structures, strict=True)
        kept = [replace(structure, label=value) for value, structure in pairs if value in wanted]
        return self._numbered(kept, self.name)


_FORM = (
    'Write {"1": "name", "2": "name"} or [{"name": "name", "label": 1, "color": [1, 0, 0]}]; label '
    "files of ITK-SNAP, Slicer, FreeSurfer, nnU-Net and BIDS are read as well."
)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    text = str(error).split("; use ")[0].rstrip(".")
    return text[:200] or type(error).__name__


def is_numbered(structure: Structure) -> bool:
    """Whether a structure has the name that `LabelTable.for_values` gives, for want of another."""
    name, _, number = structure.name.partition(" ")
    return name == _NUMBERED and number.isdecimal()


def default_color(label: int) -> tuple[float, float, float]:
    """A colour for a label value: hues a golden angle apart, so neighbours differ most."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + 0.618034 * (label - 1)) % 1.0, 0.65, 0.9)
    return (round(red, 4), round(green, 4), round(blue, 4))
