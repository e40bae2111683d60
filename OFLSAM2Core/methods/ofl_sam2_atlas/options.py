"""What can be set about a method. Defaults are the paper's where it gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from OFLSAM2Core.errors import InputError

PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"training_steps": 240, "augmented_copies": 0, "zoom": False},
    "balanced": {},
    "accurate": {"across": True},
}

LEAST_COPIES, MOST_COPIES = 0.5, 8
MOST_EPOCHS = 40


@dataclass(frozen=True)
class MethodOptions:
    """Options of learning and segmenting; unknown names and impossible values are refused.

    slicing_axis: "auto", "sagittal", "coronal" or "axial".
    intensity_window: "auto" (learned from the support), or the intensities shown as black and as
        white, "LOW,HIGH".
    zoom: look closer, at a square around the structures, where whole slices are much larger.
    across: learn from slices along the other axes, too, where voxels are even and there is no
        square; a task that did looks at a new volume along them whatever this says.
    mirror: learn from mirrored copies of slices, too, where the support shows that both sides of
        the body are alike.
    registration: lay the support cases over a volume, too, bent until they look like it, and let
        their labels say where its structures are. The learned task then holds coarse images of
        them.
    appearance: once all slices are drawn, judge voxels near structures by how bright these are in
        the volume itself.
    best_dice: draw each structure from that probability on at which the Dice to be expected is
        best, instead of from one half. Not those of which registration says much: what it says of
        unsure structures is drawn from one half on.
    gamma: S_cf above which a prediction enters memory and updates the mapping network.
    memories: K, retrieved support slices. The paper has 2; on the left atrium 4 gave 0.826 where
        2 gave 0.820 (7 cases).
    recent: confident slices of the volume itself that are remembered besides.
    iterations_learning, iterations_update: steepest-descent steps of the mapping network.
    closed_form: fit the mapping network exactly when learning, instead of by steps.
    epochs: passes over the support slices and their copies when fusion is trained; at most 40.
        0: as many as make `training_steps` steps, so that a support of few slices is not learned
        from too little.
    augmented_copies: how many augmented copies of each support slice are learned from. -1: as
        many as make `encoded_slices` slices, from every second slice once to each eight times.
    learning_rate: of AdamW.
    use_memory, use_mapping, use_fusion: switch a branch off, for ablations; without fusion the
        two branches are averaged.
    update: "gated" (by gamma), "blind" (every slice) or "none".
    preset: the name of the set of options these were made from.
    """

    slicing_axis: str = "auto"
    intensity_window: str = "auto"
    zoom: bool = True
    across: bool = False
    mirror: bool = True
    registration: bool = True
    appearance: bool = True
    best_dice: bool = True
    gamma: float = 0.8
    memories: int = 4
    recent: int = 2
    iterations_learning: int = 10
    iterations_update: int = 5
    closed_form: bool = True
    epochs: int = 0
    augmented_copies: int = -1
    training_steps: int = 800
    encoded_slices: int = 380
    learning_rate: float = 1e-3
    use_memory: bool = True
    use_mapping: bool = True
    use_fusion: bool = True
    update: str = "gated"
    preset: str = "balanced"

    def __post_init__(self) -> None:
        ranges = {
            "gamma": (0.0, 1.0),
            "memories": (1, 16),
            "recent": (0, 6),
            "iterations_learning": (1, 1000),
            "iterations_update": (0, 100),
            "epochs": (0, MOST_EPOCHS),
            "augmented_copies": (-1, 20),
            "training_steps": (1, 100_000),
            "encoded_slices": (1, 100_000),
            "learning_rate": (1e-6, 1.0),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"The option {name} is {value}.", f"Use a value from {low} to {high}."
                )
        choices = {
            "slicing_axis": ("auto", "sagittal", "coronal", "axial"),
            "update": ("gated", "blind", "none"),
            "preset": tuple(PRESETS),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"The option {name} is '{getattr(self, name)}'.",
                    f"Use one of: {', '.join(allowed)}.",
                )
        self.window()
        if not (self.use_memory or self.use_mapping):
            raise InputError(
                "Both branches are switched off (use_memory and use_mapping).",
                "Leave at least one of them on.",
            )

    def window(self) -> tuple[float, float] | None:
        """The intensity window; None for "auto". Raises InputError where it is none."""
        if self.intensity_window == "auto":
            return None
        try:
            low, high = (float(part) for part in self.intensity_window.split(","))
        except ValueError:
            low = high = 0.0
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(
                f"The intensity window is '{self.intensity_window}'.",
                "Give the lower and the higher intensity as LOW,HIGH (-160,240), or auto.",
            )
        return low, high

    def copies_of(self, slices: int) -> float:
        """Augmented copies of each of so many support slices; of a part of them where it is no
        whole number."""
        if self.augmented_copies >= 0:
            return self.augmented_copies
        return min(max(self.encoded_slices / slices - 1, LEAST_COPIES), MOST_COPIES)

    def steps_for(self, slices: int, batch: int) -> int:
        """Training steps for so many support slices and copies, `batch` of them a step."""
        passes = self.epochs or min(self.training_steps * batch / slices, MOST_EPOCHS)
        return max(round(passes * slices / batch), 1)

    @classmethod
    def from_preset(cls, preset: str, **changes: Any) -> MethodOptions:
        """The options of a preset ("fast", "balanced", "accurate"), some of them changed.

        Raises InputError for an unknown preset, option or value.
        """
        if preset not in PRESETS:
            raise InputError(
                f"There is no preset '{preset}'.", f"Use one of: {', '.join(PRESETS)}."
            )
        return cls.from_json({"preset": preset, **PRESETS[preset], **changes})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MethodOptions:
        """From plain values; strings are read as the option's own type ("0.7", "false")."""
        return replace(cls(), **{name: _typed(name, value) for name, value in data.items()})

    @classmethod
    def of_task(cls, data: Mapping[str, Any]) -> MethodOptions:
        """Of a task that another version may have learned: options that this one does not have are
        left out, for what they stood for is not in it either."""
        known = {field.name for field in fields(cls)}
        return cls.from_json({name: value for name, value in data.items() if name in known})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _typed(name: str, value: Any) -> Any:
    defaults = {field.name: getattr(MethodOptions, field.name) for field in fields(MethodOptions)}
    if name not in defaults:
        raise InputError(f"There is no option '{name}'.", f"Known options: {', '.join(defaults)}.")
    wanted = type(defaults[name])
    try:
        if wanted is bool and isinstance(value, str):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        return wanted(value)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The option {name} cannot be '{value}'.", f"It is a {wanted.__name__}."
        ) from error
