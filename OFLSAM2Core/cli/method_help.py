"""What a method says of itself, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def option_lines(described: Mapping[str, Any]) -> list[str]:
    """A line for each option: name, default, what is allowed, and what it does.

    described: as `OFLSAM2Core.methods.base.describe` gives it.
    """
    lines = []
    for each in described["options"]:
        when = {"learn": "learning", "segment": "segmenting", "both": "both"}[each["when"]]
        lines.append(f"  {each['name']}={default_as_text(each)}  [{when}]{_allowed(each)}")
        lines.append(f"      {each['help']}")
    for name, values in described["presets"].items():
        changed = ", ".join(f"{option}={_written(value)}" for option, value in values.items())
        lines.append(f"  --preset {name}: {changed or 'the defaults'}")
    return lines


def default_as_text(option: Mapping[str, Any]) -> str:
    """The default, as it would be written on a command line."""
    return _written(option["default"])


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(option: Mapping[str, Any]) -> str:
    if option["choices"]:
        return f" one of {', '.join(option['choices'])}"
    low, high = option["low"], option["high"]
    if low is None and high is None:
        return ""
    if high is None:
        return f" at least {low}"
    return f" at most {high}" if low is None else f" {low} to {high}"
