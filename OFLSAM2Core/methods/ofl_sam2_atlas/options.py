"""Options of the default method. Defaults are the paper's where it gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.methods.common.slicing_options import (
    AXES,
    AXIS_HELP,
    WINDOW_HELP,
    intensity_window,
)
from OFLSAM2Core.methods.options import Options, option

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "fast": {"training_steps": 240, "augmented_copies": 0, "roi_refinement": False},
    "balanced": {},
    "accurate": {"multi_planar": True},
}

LEAST_COPIES, MOST_COPIES = 0.5, 8
MOST_EPOCHS = 40


@dataclass(frozen=True)
class SegmentOptions(Options):
    """What can be changed for a volume. On the left atrium 4 retrieved slices gave a mean Dice of
    0.826 where the paper's 2 gave 0.820 (7 cases)."""

    roi_refinement: bool = option(
        True, "Predict a square around the structures, too, where slices are much larger."
    )
    atlas_prior: bool = option(
        True, "Register the support cases to the volume and use their labels as a prior."
    )
    intensity_refinement: bool = option(
        True, "Judge voxels near structures by the intensities of these in the volume itself."
    )
    dice_optimal_threshold: bool = option(
        True, "Label a voxel from the probability on at which the expected Dice is best."
    )
    gamma: float = option(
        0.8, "S_cf above which a prediction enters memory and the mapping network.", low=0, high=1
    )
    retrieved_slices: int = option(
        4, "K, support slices that are retrieved for each slice.", low=1, high=16
    )
    recent_slices: int = option(
        2, "Confident slices of the volume itself that are remembered besides.", low=0, high=6
    )
    iterations_update: int = option(
        5, "Steepest-descent steps of each online update.", low=0, high=100
    )
    use_memory: bool = option(True, "The memory branch; false for an ablation.")
    mapping_branch: bool = option(True, "The mapping network's branch; false for an ablation.")
    use_fusion: bool = option(True, "Adaptive fusion; false averages the two branches.")
    update: str = option(
        "gated",
        "Which slices update the mapping network: those above gamma, all, or none.",
        choices=("gated", "always", "none"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_branches(self.use_memory, self.mapping_branch)


@dataclass(frozen=True)
class LearnOptions(Options):
    """What is settled when a task is learned."""

    slicing_axis: str = option("auto", AXIS_HELP, choices=AXES)
    intensity_window: str = option("auto", WINDOW_HELP)
    roi_refinement: bool = option(
        True, "Predict a square around the structures, too, where slices are much larger."
    )
    multi_planar: bool = option(False, "Learn from slices along the other axes, too.")
    flip_augmentation: bool = option(
        True, "Learn from mirrored copies, where the support shows that both sides are alike."
    )
    atlas_prior: bool = option(
        True, "Register the support cases to the volume and use their labels as a prior."
    )
    retrieved_slices: int = option(
        4, "K, support slices that are retrieved for each slice.", low=1, high=16
    )
    recent_slices: int = option(
        2, "Confident slices of the volume itself that are remembered besides.", low=0, high=6
    )
    iterations_learning: int = option(
        10, "Steepest-descent steps of the mapping network.", low=1, high=1000
    )
    closed_form: bool = option(True, "Fit the mapping network exactly instead of by steps.")
    epochs: int = option(
        0,
        "Passes over the support slices and their copies; 0: as many as make training_steps.",
        low=0,
        high=MOST_EPOCHS,
    )
    augmented_copies: int = option(
        -1,
        "Augmented copies of each support slice; -1: as many as make encoded_slices.",
        low=-1,
        high=20,
    )
    training_steps: int = option(800, "Training steps.", low=1, high=100_000)
    encoded_slices: int = option(
        380, "Slices and copies that are encoded to learn from.", low=1, high=100_000
    )
    learning_rate: float = option(1e-3, "Learning rate of AdamW.", low=1e-6, high=1.0)
    use_memory: bool = option(True, "The memory branch; false for an ablation.")
    mapping_branch: bool = option(True, "The mapping network's branch; false for an ablation.")
    use_fusion: bool = option(True, "Adaptive fusion; false averages the two branches.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.window()
        check_branches(self.use_memory, self.mapping_branch)

    def window(self) -> tuple[float, float] | None:
        """The intensity window; None for "auto"."""
        return intensity_window(self.intensity_window)

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


def check_branches(use_memory: bool, mapping_branch: bool) -> None:
    """Raises InputError where both branches are disabled."""
    if not (use_memory or mapping_branch):
        raise InputError(
            "Both branches are disabled (use_memory and mapping_branch).",
            "Leave at least one of them on.",
        )
