"""A method for volumes in three steps: locate, predict, fuse.

Support cases are registered to a new volume (locate), the slices and the region that matter are
encoded once and read by a ridge regression and a small U-Net on frozen features (predict), and both
are put together in 3D (fuse). `pipeline.py` is the three steps from top to bottom.
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
    description = "registered support cases, and a U-Net and ridge regression on frozen features"
    needs_backbone = True
    sequences = False
    further_volumes = True
    corrections = True
    LearnOptions = own.LearnOptions
    SegmentOptions = own.SegmentOptions
    presets = own.PRESETS

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: own.LearnOptions
    ) -> MethodState:
        from OFLSAM2Core.methods.ofl_sam2_atlas.learning import learn_model
        from OFLSAM2Core.methods.ofl_sam2_atlas.state import encode_model

        with ctx.seeded():
            return encode_model(learn_model(ctx, support, options))

    def add_case(
        self, ctx: Context, task: LearnedTask, case: SupportCase, options: own.LearnOptions
    ) -> MethodState:
        from OFLSAM2Core.methods.ofl_sam2_atlas.extend import extended
        from OFLSAM2Core.methods.ofl_sam2_atlas.state import decode_model, encode_model

        model = decode_model(task.state, task.structures)
        with ctx.seeded():
            return encode_model(extended(ctx, model, case, options))

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: own.SegmentOptions
    ) -> Run:
        from OFLSAM2Core.methods.ofl_sam2_atlas.run import VolumeRun

        return VolumeRun(ctx, volume, task, options)
