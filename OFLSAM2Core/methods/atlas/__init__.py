"""Multi-atlas segmentation by itself: registered support cases vote. No backbone, no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.methods.common.slicing_options import SlicingOptions
from OFLSAM2Core.methods.options import Options, option

if TYPE_CHECKING:
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.methods.atlas.registered_atlases import AtlasRun
    from OFLSAM2Core.methods.base import Context, MethodState


@dataclass(frozen=True)
class AtlasSegmentOptions(Options):
    """How the registered support cases are put together."""

    fusion: str = option(
        "weighted",
        "Whether every support case has the same vote, or one counts for more where it is more "
        "similar to the volume.",
        choices=("majority", "weighted"),
    )


class Atlas:
    """See the module."""

    name = "atlas"
    description = "support cases registered to the volume vote; no backbone, nothing is trained"
    needs_backbone = False
    sequences = False
    corrections = False
    LearnOptions = SlicingOptions
    SegmentOptions = AtlasSegmentOptions
    presets: dict[str, dict[str, Any]] = {"fast": {}, "balanced": {}, "accurate": {}}

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: SlicingOptions
    ) -> MethodState:
        """Keep a coarse image and the labels of every support case."""
        from OFLSAM2Core.methods.atlas.registered_atlases import Atlases

        return Atlases.from_support(support, options).encode()

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: AtlasSegmentOptions
    ) -> AtlasRun:
        """A run over one volume. Raises TaskError or InputError."""
        from OFLSAM2Core.methods.atlas.registered_atlases import AtlasRun

        return AtlasRun(ctx, volume, task, options.fusion)
