"""Training-free matching with an augmented support set (arXiv 2503.04826).

    augmented_support.py      affine and colour copies of support slices
    perceptual_distance.py    what slices are matched by: LPIPS, or its construction on the backbone

Each slice of a volume is matched to the most similar slice of the augmented support. The two form a
video of two frames: the support's mask prompts the first, the second is predicted. Nothing is kept
from slice to slice. What the paper leaves open: docs/decisions/0032-support-matching.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.methods.common.prompted_method import PromptedMethod
from OFLSAM2Core.methods.common.slicing_options import SlicingOptions
from OFLSAM2Core.methods.options import Options, option

if TYPE_CHECKING:
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.methods.base import Context, MethodState
    from OFLSAM2Core.methods.common.prompted_run import (
        Describe,
        PromptedRun,
        Query,
        SupportChoice,
        Visit,
    )

logger = logging.getLogger(__name__)

DISTANCE_HELP = (
    "Perceptual distance: on the backbone's own features, or LPIPS, whose network and weights must "
    "be on this machine."
)


@dataclass(frozen=True)
class SupportMatchingLearnOptions(SlicingOptions):
    augmented_copies: int = option(
        2, "Augmented copies of each support slice (N_T; the paper: 0, 2 or 4).", low=0, high=16
    )
    support_slices: int = option(
        16, "Labelled slices of each support case that are kept, evenly.", low=1, high=200
    )
    distance: str = option("backbone", DISTANCE_HELP, choices=("backbone", "lpips"))


@dataclass(frozen=True)
class SupportMatchingSegmentOptions(Options):
    distance: str = option("backbone", DISTANCE_HELP, choices=("backbone", "lpips"))


class SupportMatching(PromptedMethod):
    """See the module."""

    name = "support-matching"
    further_volumes = False  # Its copies vary hue, which would mix them.
    description = "training-free: each slice from the most similar augmented support slice alone"
    LearnOptions = SupportMatchingLearnOptions
    SegmentOptions = SupportMatchingSegmentOptions
    presets: dict[str, dict[str, Any]] = {
        "fast": {"augmented_copies": 0},
        "balanced": {},
        "accurate": {"augmented_copies": 4},
    }

    def choice(self, options: SupportMatchingLearnOptions) -> SupportChoice:
        from OFLSAM2Core.methods.common.prompted_run import SupportChoice
        from OFLSAM2Core.methods.common.support_memory import spread
        from OFLSAM2Core.methods.support_matching.augmented_support import augment

        return SupportChoice(
            lambda labelled: spread(labelled, options.support_slices),
            _describe(options),
            options.augmented_copies,
            augment,
            together=1,
        )

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: SlicingOptions
    ) -> MethodState:
        """Encode support slices and their copies, and what they are matched by."""
        return super().learn(ctx, support, options)

    def open(
        self,
        ctx: Context,
        volume: Volume,
        task: LearnedTask,
        options: SupportMatchingSegmentOptions,
    ) -> PromptedRun:
        """A run over one volume or sequence. Raises TaskError or InputError."""
        from OFLSAM2Core.methods.common.prompted_run import PromptedRun

        return PromptedRun(
            ctx, volume, task, lambda query: self.plan(query, options), _describe(options)
        )

    def plan(self, query: Query, options: SupportMatchingSegmentOptions) -> Iterator[Visit]:
        """From first to last, each with its own match. The log has matches and distances."""
        from OFLSAM2Core.methods.common.prompted_run import Visit

        for index in range(query.count):
            apart = (query.memory.descriptors - query.descriptor(index)).square().sum(dim=1)
            best = int(apart.argmin())
            logger.info(
                "slice %d: support slice %d (case %d), distance %.4f",
                index,
                best,
                int(query.memory.cases[best]) + 1,
                float(apart[best]),
            )
            yield Visit(index, 1, [(index - 1, best)], remember=False)


def _describe(
    options: SupportMatchingLearnOptions | SupportMatchingSegmentOptions,
) -> Describe:
    from OFLSAM2Core.methods.support_matching.perceptual_distance import Lpips, of_backbone

    if options.distance == "lpips":
        return Lpips.find()
    return of_backbone
