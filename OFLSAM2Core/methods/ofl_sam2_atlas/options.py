"""Options of the method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from OFLSAM2Core.methods.common.slicing_options import (
    AXES,
    AXIS_HELP,
    WINDOW_HELP,
    intensity_window,
)
from OFLSAM2Core.methods.options import Options, option

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"training_steps": 200, "encoded_slices": 120, "magnification": 1.0},
    "balanced": {},
    "accurate": {"training_steps": 1600, "encoded_slices": 480},
}


@dataclass(frozen=True)
class SegmentOptions(Options):
    """What can be changed for a volume."""

    atlas_prior: bool = option(
        True, "Register the support cases to the volume and use their labels as a prior."
    )
    intensity_refinement: bool = option(
        True, "Judge voxels near structures by the intensities of these in the volume itself."
    )


@dataclass(frozen=True)
class LearnOptions(Options):
    """What is settled when a task is learned."""

    slicing_axis: str = option("auto", AXIS_HELP, choices=AXES)
    intensity_window: str = option("auto", WINDOW_HELP)
    flip_augmentation: bool = option(
        True, "Learn from mirrored copies, where the support shows that both sides are alike."
    )
    atlas_prior: bool = option(
        True, "Register the support cases to one another, so that place can help."
    )
    training_steps: int = option(800, "Training steps.", low=1, high=100_000)
    encoded_slices: int = option(
        300, "Slices and copies that are encoded to learn from.", low=1, high=100_000
    )
    learning_rate: float = option(1e-3, "Learning rate of AdamW.", low=1e-6, high=1.0)
    magnification: float = option(
        2.0,
        "Pixels of the encoder's image for a pixel of the slice, along a side; at most 256 in all.",
        low=0.25,
        high=8,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.window()

    def window(self) -> tuple[float, float] | None:
        """The intensity window; None for "auto"."""
        return intensity_window(self.intensity_window)
