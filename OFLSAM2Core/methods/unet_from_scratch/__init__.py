"""What a user would train instead: nnU-Net's plain U-Net (DynUNet of MONAI) on the support alone,
for a given time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from OFLSAM2Core.methods.common.training_clock import PRESETS, TrainingTime
from OFLSAM2Core.methods.options import Options, option

if TYPE_CHECKING:
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.methods.base import Context, MethodState
    from OFLSAM2Core.methods.unet_from_scratch.segmentation import UNetRun


@dataclass(frozen=True)
class UNetLearnOptions(TrainingTime):
    learning_rate: float = option(1e-3, "Learning rate of AdamW at first.", low=1e-6, high=1.0)


@dataclass(frozen=True)
class UNetSegmentOptions(Options):
    single_component: bool = option(
        True, "Keep the largest component of structures that are one in every support case."
    )


class _UNet:
    """What the 2D and the 3D U-Net have in common."""

    dimensions: ClassVar[int]
    needs_backbone = False
    sequences = False
    corrections = False
    LearnOptions = UNetLearnOptions
    SegmentOptions = UNetSegmentOptions
    presets = PRESETS

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: UNetLearnOptions
    ) -> MethodState:
        """Train from random weights until the time is over."""
        from OFLSAM2Core.methods.unet_from_scratch.training import train

        return train(ctx, support, self.dimensions, options)

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: UNetSegmentOptions
    ) -> UNetRun:
        """A run over one volume. Raises TaskError where the task lacks a part."""
        from OFLSAM2Core.methods.unet_from_scratch.segmentation import UNetRun

        return UNetRun(ctx, volume, task, self.dimensions, options)


class UNet2D(_UNet):
    """Slice by slice."""

    name = "unet-2d"
    description = "a 2D U-Net trained from scratch on the support's slices, for a given time"
    dimensions = 2


class UNet3D(_UNet):
    """In patches of the whole volume."""

    name = "unet-3d"
    description = "a 3D U-Net trained from scratch on the support, for a given time"
    dimensions = 3
