"""What can be set of OFL-SAM2. Defaults are the paper's where it gives them."""

from __future__ import annotations

from dataclasses import dataclass

from OFLSAM2Core.methods.common.slicing_options import AXES, AXIS_HELP, WINDOW_HELP
from OFLSAM2Core.methods.options import Options, option

RETRIEVED = "K, the most similar support slices that memory starts from (paper: 1, 2 or 3)"
RECENT = "confident slices of the volume itself that memory holds besides, in each direction"
MEMORY = "the offline branch: memory attention over the memory bank (E1)"
MAPPING = "the online branch: the mapping network (E2)"
FUSION = "weigh the branches by the learned G_theta; without it their mean is taken"


@dataclass(frozen=True)
class LearnOptions(Options):
    """Options of learning from the support."""

    slicing_axis: str = option("auto", AXIS_HELP, choices=AXES)
    intensity_window: str = option("auto", WINDOW_HELP)
    retrieved_slices: int = option(2, RETRIEVED, low=1, high=8)
    recent_slices: int = option(5, RECENT, low=0, high=6)
    memory_branch: bool = option(True, MEMORY)
    mapping_branch: bool = option(True, MAPPING)
    adaptive_fusion: bool = option(True, FUSION)
    kernel: int = option(3, "side of the mapping network's convolution", low=1, high=3)
    iterations_learning: int = option(
        10, "steepest-descent steps that fit the mapping network to the support", low=1, high=1000
    )
    closed_form: bool = option(False, "solve for the mapping network exactly instead of by steps")
    support_slices: int = option(
        360, "support slices over all cases that are learned from, at most", low=4, high=2000
    )
    augmentation_factor: int = option(1, "augmented copies of each support slice", low=0, high=8)
    training_steps: int = option(
        400, "steps in which lift and G_theta are trained, at most 40 epochs", low=1, high=100_000
    )
    learning_rate: float = option(1e-3, "Learning rate of AdamW.", low=1e-6, high=1.0)


@dataclass(frozen=True)
class SegmentOptions(Options):
    """Options of segmenting; those that stand in `LearnOptions`, too, are one option."""

    gamma: float = option(
        0.8, "S_cf above which a slice enters memory and updates the mapping network", low=0, high=1
    )
    update: str = option(
        "gated",
        "which slices are learned from: those above gamma, always all, or none",
        choices=("gated", "always", "none"),
    )
    retrieved_slices: int = option(2, RETRIEVED, low=1, high=8)
    recent_slices: int = option(5, RECENT, low=0, high=6)
    memory_branch: bool = option(True, MEMORY)
    mapping_branch: bool = option(True, MAPPING)
    adaptive_fusion: bool = option(True, FUSION)
    iterations_update: int = option(
        5, "steepest-descent steps of the mapping network for each confident slice", low=0, high=100
    )


# By time alone; what they cost or bring in accuracy was not measured.
PRESETS = {
    "fast": {"training_steps": 150, "augmentation_factor": 0, "support_slices": 120},
    "balanced": {},
    "accurate": {"training_steps": 1200, "augmentation_factor": 2},
}
