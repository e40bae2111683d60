"""What the panel's part Advanced means for the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from OFLSAM2Core.methods.ofl_sam2_atlas.options import MethodOptions


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, "preset" among them, completed. Raises InputError."""
    changes = dict(options)
    return MethodOptions.from_preset(changes.pop("preset", "balanced"), **changes).to_json()


def method_options(
    preset: str,
    slicing_axis: str,
    intensity_window: str,
    gamma: float,
    memories: int,
    epochs: int,
    iterations_learning: int,
    iterations_update: int,
) -> dict[str, Any]:
    """Options for the worker. epochs: 0 leaves them to the preset; intensity_window: "LOW,HIGH",
    empty to learn it from the support. Raises InputError."""
    changes: dict[str, Any] = {
        "slicing_axis": slicing_axis,
        "intensity_window": intensity_window.strip() or "auto",
        "gamma": gamma,
        "memories": memories,
        "iterations_learning": iterations_learning,
        "iterations_update": iterations_update,
    }
    if epochs:
        changes["epochs"] = epochs
    return checked_options({"preset": preset, **changes})
