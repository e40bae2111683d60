"""What is segmented: a structure is one thing to segment, across all cases."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from OFLSAM2Core.errors import InputError

MOST_STRUCTURES = 255
"""In one task: label arrays are 8-bit, and 0 is background."""


@dataclass(frozen=True)
class Structure:
    """One thing to segment (a Slicer *segment*).

    label: its value in label arrays, 1 to 255.
    color: red, green, blue, each 0 to 1.
    terminology: a Slicer terminology entry ("category~type~modifier~region..."), or "".
    """

    name: str
    label: int
    color: tuple[float, float, float] = (0.5, 0.68, 0.5)
    terminology: str = ""

    @property
    def code(self) -> str:
        """Coding scheme and value of the type and its modifier ("SCT:18234004"), or ""."""
        parts = self.terminology.split("~")
        if len(parts) < 3:
            return ""
        words = [part.split("^") for part in parts[2:4]]
        codes = [f"{word[0]}:{word[1]}" for word in words if len(word) >= 2 and word[1]]
        return "|".join(codes)

    @property
    def is_generic(self) -> bool:
        """Whether the code says no more than "tissue" (Slicer's default for new segments)."""
        return self.code in ("", "SCT:85756007")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "color": list(self.color)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Structure:
        """A structure from plain values. Raises ValueError that names the one that is wrong."""
        if not isinstance(data, Mapping):
            raise ValueError("a structure is an object with a name and a label")
        name, terminology = data.get("name"), data.get("terminology", "")
        if not isinstance(name, str | int | float) or not str(name).strip():
            raise ValueError("a structure has no name")
        if not isinstance(terminology, str):
            raise ValueError(f"the terminology of '{str(name)[:50]}' is no text")
        return cls(
            name=str(name),
            label=_whole(data.get("label"), name),
            color=_color(data.get("color", cls.color), name),
            terminology=terminology,
        )


def _whole(value: Any, name: object) -> int:
    try:
        if isinstance(value, bool) or len(str(value)) > 20 or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the label of '{str(name)[:50]}' is no whole number") from None


def _color(value: Any, name: object) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in value)
    except (TypeError, ValueError, OverflowError):
        red = green = blue = math.nan
    if not all(0 <= part <= 1 for part in (red, green, blue)):
        raise ValueError(f"the color of '{str(name)[:50]}' is not three numbers from 0 to 1")
    return red, green, blue


def ambiguous_codes(cases: Iterable[Sequence[Structure]]) -> frozenset[str]:
    """Codes that several structures of one case have (a left and a right kidney, both coded as
    kidney, or two masses): these do not distinguish structures."""
    counts = (Counter(structure.code for structure in case) for case in cases)
    return frozenset(code for count in counts for code, times in count.items() if times > 1)


def structures_match(
    one: Structure, other: Structure, shared: frozenset[str] = frozenset()
) -> bool:
    """Structures match across cases by terminology code, then by name (case is ignored).

    shared: codes that say too little to match by, `ambiguous_codes`.
    """
    if not one.is_generic and not other.is_generic and one.code not in shared:
        return one.code == other.code
    return _same_name(one, other)


def find_structure(
    wanted: Structure, among: Sequence[Structure], shared: frozenset[str] = frozenset()
) -> Structure | None:
    """The structure in `among` that matches `wanted`; the one of the same name is preferred.

    shared: `ambiguous_codes` of the cases.
    """
    matches = [other for other in among if structures_match(wanted, other, shared)]
    named = [other for other in matches if _same_name(other, wanted)]
    if named:
        return named[0]
    return matches[0] if len(matches) == 1 else None


def _same_name(one: Structure, other: Structure) -> bool:
    return _as_compared(one.name) == _as_compared(other.name)


def _as_compared(name: str) -> str:
    return name.strip().casefold()


def check_structures(structures: Sequence[Structure], where: str) -> None:
    """Names (case is ignored) and label values must be unique and labels within 1 to 255.

    Raises InputError naming `where` and the offending structure.
    """
    if not structures:
        raise InputError(f"{where} has no structures.", "Give a segmentation with at least one.")
    if len(structures) > MOST_STRUCTURES:
        raise InputError(
            f"{where} has {len(structures)} structures.",
            f"Leave out some: label values are 8-bit, {MOST_STRUCTURES} at most.",
        )
    names = [_as_compared(structure.name) for structure in structures]
    for attribute, values in (
        ("name", names),
        ("label", [str(structure.label) for structure in structures]),
    ):
        twice = sorted(value for value, times in Counter(values).items() if times > 1)
        if twice:
            raise InputError(
                f"{where} has more than one structure with the {attribute} {', '.join(twice)}.",
                f"Give every structure its own {attribute}.",
            )
    for structure in structures:
        if not 1 <= structure.label <= 255:
            raise InputError(
                f"{where}: structure '{structure.name}' has label value {structure.label}.",
                "Label values must be from 1 to 255; 0 is background.",
            )
