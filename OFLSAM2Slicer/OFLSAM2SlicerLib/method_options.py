"""What was changed of a method's options, for the worker: what was not changed is not sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from OFLSAM2Core.methods import DEFAULT, get_method
from OFLSAM2Core.methods.base import describe
from OFLSAM2Core.methods.changed_options import ChangedOptions


def checked_options(options: Mapping[str, Any], method: str = DEFAULT) -> dict[str, Any]:
    """Options by name, "preset" among them, as they were given. Raises InputError."""
    values = dict(options)
    ChangedOptions(get_method(method), values.pop("preset", None), values)
    return dict(options)


def changed_options(
    preset: str, values: Mapping[str, Any], method: str = DEFAULT
) -> dict[str, Any]:
    """Those of `values` that are not the preset's, which the panel shows. Raises InputError.

    preset: its name goes along where it is not "balanced", the default.
    """
    chosen = get_method(method)
    defaults = {each["name"]: each["default"] for each in describe(chosen)["options"]}
    shown = {**defaults, **chosen.presets.get(preset, {})}
    changed = {name: value for name, value in values.items() if value != shown.get(name)}
    if preset != "balanced":
        changed = {"preset": preset, **changed}
    return checked_options(changed, method)
