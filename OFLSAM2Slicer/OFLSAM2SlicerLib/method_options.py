"""The methods there are, what each says can be set about it, and what the user changed of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from OFLSAM2Core.methods import DEFAULT, describe_all, get_method
from OFLSAM2Core.methods.changed_options import ChangedOptions
from OFLSAM2Core.methods.options import OptionInfo

DEFAULT_PRESET = "balanced"


@dataclass(frozen=True)
class MethodInfo:
    """A method as the panel offers it.

    presets: values by name, by preset. options: in the order of the panel.
    for_learning: names of those that a learned task has settled. further_volumes: whether it sees
    several co-registered volumes of a patient.
    """

    name: str
    description: str
    needs_backbone: bool
    presets: Mapping[str, Mapping[str, Any]]
    options: tuple[OptionInfo, ...]
    for_learning: frozenset[str]
    further_volumes: bool

    def value(self, option: OptionInfo, preset: str, changed: Mapping[str, Any]) -> Any:
        """What an option is with a preset and the user's changes."""
        return changed.get(option.name, self.preset_value(option, preset))

    def preset_value(self, option: OptionInfo, preset: str) -> Any:
        return self.presets.get(preset, {}).get(option.name, option.default)


def described_methods() -> list[MethodInfo]:
    """All methods that can be loaded, the default one first; without PyTorch."""
    found = [_info(described) for described in describe_all()]
    return sorted(found, key=lambda one: one.name != DEFAULT)


def checked_options(options: Mapping[str, Any], method: str = DEFAULT) -> dict[str, Any]:
    """Options by name, "preset" among them, as they were given. Raises InputError."""
    values = dict(options)
    ChangedOptions(get_method(method), values.pop("preset", None), values)
    return dict(options)


def _info(described: Mapping[str, Any]) -> MethodInfo:
    infos, learning = [], set()
    for entry in described["options"]:
        fields = {name: value for name, value in entry.items() if name != "when"}
        infos.append(OptionInfo(**{**fields, "choices": tuple(fields["choices"])}))
        if entry["when"] == "learn":
            learning.add(entry["name"])
    return MethodInfo(
        name=described["name"],
        description=described["description"],
        needs_backbone=described["needs_backbone"],
        presets=described["presets"],
        options=tuple(infos),
        for_learning=frozenset(learning),
        further_volumes=described["further_volumes"],
    )
