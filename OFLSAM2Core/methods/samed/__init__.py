"""SAMed: a SAM fine-tuned by low-rank adaptation, without prompts (arXiv 2304.13785).

    lora.py            low-rank updates of queries and values in the frozen encoder's attention
    training.py        them and the mask decoder, on the support's slices, for a given time
    segmentation.py    a volume slice by slice

Written from the paper; what is chosen otherwise here: docs/decisions/0045-samed.md.
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
    from OFLSAM2Core.methods.samed.segmentation import SamedRun


@dataclass(frozen=True)
class SamedLearnOptions(TrainingTime, SlicingOptions):
    learning_rate: float = option(
        1e-3,
        "Learning rate of AdamW after warming up (the paper: 5e-3, batches of 12).",
        low=1e-6,
        high=1.0,
    )
    rank: int = option(4, "Rank of the low-rank updates.", low=1, high=64)


class Samed:
    """See the module."""

    name = "samed"
    description = "the backbone fine-tuned on the support: LoRA in its encoder, and its decoder"
    needs_backbone = True
    sequences = False
    further_volumes = True
    corrections = False
    LearnOptions = SamedLearnOptions
    SegmentOptions = Options
    presets = PRESETS

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: SamedLearnOptions
    ) -> MethodState:
        """Fine-tune until the time is over. Raises InputError for a backbone that cannot be."""
        from OFLSAM2Core.methods.samed.training import train

        return train(ctx, support, options)

    def open(self, ctx: Context, volume: Volume, task: LearnedTask, options: Options) -> SamedRun:
        """A run over one volume. Raises TaskError where the task lacks a part."""
        from OFLSAM2Core.methods.samed.segmentation import SamedRun

        return SamedRun(ctx, volume, task)
