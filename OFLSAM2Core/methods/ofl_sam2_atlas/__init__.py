"""The default for volumes: mapping network, a U-Net on frozen features, and a registered atlas.

The mapping network and its online update are OFL-SAM2's (arXiv 2512.24861); the U-Net head on the
frozen backbone's features and the registered support cases as a prior are ours. What was chosen is
in docs/decisions/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.methods.base import Context, MethodState, Run
from OFLSAM2Core.methods.ofl_sam2_atlas import options as own

if TYPE_CHECKING:
    from OFLSAM2Core.learned_task import LearnedTask


class OflSam2Atlas:
    """See the module."""

    name = "ofl-sam2-atlas"
    description = (
        "mapping network, U-Net on frozen features and registered support cases; for volumes"
    )
    needs_backbone = True
    sequences = True
    further_volumes = True
    corrections = False
    LearnOptions = own.LearnOptions
    SegmentOptions = own.SegmentOptions
    presets = own.PRESETS

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: own.LearnOptions
    ) -> MethodState:
        from OFLSAM2Core.methods.ofl_sam2_atlas.learning import learn

        return learn(ctx, support, options)

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: own.SegmentOptions
    ) -> Run:
        from OFLSAM2Core.methods.ofl_sam2_atlas.volume_run import VolumeRun

        return VolumeRun(ctx, volume, task, options)
