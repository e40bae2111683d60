"""RRL-MedSAM: one-shot segmentation in 3D with knowledge distilled from a SAM (arXiv 2504.20501).

    networks.py        encoders of at most 2.7 million weights, mask decoder, flow decoder
    distillation.py    the frozen backbone's features, their loss, and the mutual EMA
    registration.py    warping, and the losses of a pair of volumes
    training.py        both stages
    segmentation.py    a volume through both branches

Written from the method's public description; what that leaves open, and how several labelled cases
are used: docs/decisions/0044-rrl-medsam.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from OFLSAM2Core.methods.common.slicing_options import SlicingOptions
from OFLSAM2Core.methods.common.training_clock import PRESETS, TrainingTime
from OFLSAM2Core.methods.options import Options, option

if TYPE_CHECKING:
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.methods.base import Context, MethodState
    from OFLSAM2Core.methods.rrl_medsam.segmentation import RrlMedSamRun


@dataclass(frozen=True)
class RrlMedSamLearnOptions(TrainingTime, SlicingOptions):
    learning_rate: float = option(
        1e-3, "Learning rate of Adam (the paper's lab: 1e-4).", low=1e-6, high=1.0
    )
    grid_side: int = option(
        64,
        "Volumes are seen as about this many cells cubed; 128 is the paper's, for a GPU.",
        low=16,
        high=256,
    )
    width: int = option(
        8,
        "Channels of the encoders' first level; 28 makes encoders of 2.7 million weights, the "
        "paper's size.",
        low=2,
        high=28,
    )
    distillation_share: float = option(
        0.4, "Share of the training that is the first stage, distillation.", low=0.0, high=1.0
    )
    ema: float = option(
        0.999,
        "Decay of the second stage's mutual moving average of both encoders.",
        low=0.5,
        high=1.0,
    )


class RrlMedSam:
    """See the module."""

    name = "rrl-medsam"
    description = "light 3D encoders, one distilled from the backbone, registration, mutual EMA"
    needs_backbone = True
    sequences = False
    corrections = False
    unlabelled = True
    LearnOptions = RrlMedSamLearnOptions
    SegmentOptions = Options
    presets = {**PRESETS, "fast": {**PRESETS["fast"], "grid_side": 48}}

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: RrlMedSamLearnOptions
    ) -> MethodState:
        """Train both stages until the time is over."""
        from OFLSAM2Core.methods.rrl_medsam.training import train

        return train(ctx, support, options)

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: Options
    ) -> RrlMedSamRun:
        """A run over one volume. Raises TaskError where the task lacks a part."""
        from OFLSAM2Core.methods.rrl_medsam.segmentation import RrlMedSamRun

        return RrlMedSamRun(ctx, volume, task)
