"""Options that a method declares once, and the command line, the worker and the panel ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from OFLSAM2Core.errors import InputError

_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
}

OptionsT = TypeVar("OptionsT", bound="Options")


@dataclass(frozen=True)
class OptionInfo:
    """One option, as a user interface shows it.

    type: "bool", "int", "float" or "str". low, high: the least and the largest value, both allowed;
    None where there is no limit. choices: the values of a "str" that are allowed; empty where any
    text may be tried.
    """

    name: str
    type: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "choices": list(self.choices)}


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of an `Options` class.

    help: one sentence for a person who knows the field of segmentation, not this code.
    """
    return field(
        default=default, metadata={"help": help, "low": low, "high": high, "choices": choices}
    )


@dataclass(frozen=True)
class Options:
    """Base of a method's options: a frozen dataclass whose fields are made by `option`.

    A value of another type, out of its range or not among its choices raises InputError.

    ```python
    @dataclass(frozen=True)
    class SegmentOptions(Options):
        gamma: float = option(0.8, "Confidence above which a slice is remembered.", low=0, high=1)

    SegmentOptions.from_values({"gamma": "0.7"}).gamma  # 0.7
    ```
    """

    _types: ClassVar[Mapping[type, str]] = {bool: "bool", int: "int", float: "float", str: "str"}

    def __post_init__(self) -> None:
        for info in self.describe():
            _check(info, getattr(self, info.name))

    @classmethod
    def describe(cls) -> tuple[OptionInfo, ...]:
        """Every option, in the order of declaration."""
        return tuple(
            OptionInfo(each.name, cls._types[type(each.default)], each.default, **each.metadata)
            for each in fields(cls)
        )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(each.name for each in fields(cls))

    @classmethod
    def from_values(cls: type[OptionsT], values: Mapping[str, Any]) -> OptionsT:
        """From plain values; strings are read as the option's own type ("0.7", "false").

        Raises InputError for an unknown name or an impossible value.
        """
        known = {info.name: info for info in cls.describe()}
        typed = {}
        for name, value in values.items():
            if name not in known:
                raise InputError(
                    f"There is no option '{name}'.", f"Known options: {', '.join(known)}."
                )
            typed[name] = _typed(known[name], value)
        return cls(**typed)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _typed(info: OptionInfo, value: Any) -> Any:
    kind = type(info.default)
    try:
        if kind is bool:
            if isinstance(value, str):
                return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
            if not isinstance(value, bool | int) or value not in (0, 1):
                raise ValueError
            return bool(value)
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        if isinstance(value, bool) or value is None:
            raise ValueError
        return kind(value)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"The option {info.name} cannot be '{str(value)[:50]}'.",
            f"It is {_KINDS[info.type]}.",
        ) from error


def _check(info: OptionInfo, value: Any) -> None:
    low = -math.inf if info.low is None else info.low
    high = math.inf if info.high is None else info.high
    if info.type == "float" and not math.isfinite(value):
        raise InputError(f"The option {info.name} is {value}.", "Use a finite number.")
    if info.type in ("int", "float") and not low <= value <= high:
        bounds = f"from {info.low} to {info.high}"
        if info.low is None or info.high is None:
            bounds = f"of at least {info.low}" if info.high is None else f"up to {info.high}"
        raise InputError(f"The option {info.name} is {value}.", f"Use a value {bounds}.")
    if info.choices and value not in info.choices:
        raise InputError(
            f"The option {info.name} is '{value}'.", f"Use one of: {', '.join(info.choices)}."
        )
