"""FATE-SAM: for each slice the most similar support slices as temporary conditioning frames.

From the public description of FATE-SAM (He et al. 2025): training-free, the three most similar
support slices that show any structure, recent slices of the volume kept in memory, from the middle
backwards first and then forwards (docs/decisions/0030).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from OFLSAM2Core.methods.common.slicing_options import AXES, AXIS_HELP, WINDOW_HELP
from OFLSAM2Core.methods.options import Options, option

if TYPE_CHECKING:
    from OFLSAM2Core.data.volume import SupportCase, Volume
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.methods.base import Context, MethodState
    from OFLSAM2Core.methods.common.prompted_frames import PromptedRun, Query, Visit


@dataclass(frozen=True)
class LearnOptions(Options):
    slicing_axis: str = option("auto", AXIS_HELP, choices=AXES)
    intensity_window: str = option("auto", WINDOW_HELP)


@dataclass(frozen=True)
class SegmentOptions(Options):
    retrieved_slices: int = option(
        3, "Support slices most similar to a slice that it is conditioned on.", low=1, high=16
    )


class FateSam2:
    """See the module."""

    name = "fate-sam2"
    description = "SAM2 with each slice's most similar support slices as temporary mask prompts"
    needs_backbone = True
    sequences = True
    LearnOptions = LearnOptions
    SegmentOptions = SegmentOptions
    presets: dict[str, dict[str, object]] = {}

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: LearnOptions
    ) -> MethodState:
        """Encode the labelled support slices; nothing is trained."""
        from OFLSAM2Core.methods.common.prompted_frames import PromptState

        state = PromptState.learn(ctx, support, options.slicing_axis, options.intensity_window)
        return state.encode()

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: SegmentOptions
    ) -> PromptedRun:
        from OFLSAM2Core.methods.common.prompted_frames import PromptedRun

        return PromptedRun(ctx, volume, task, lambda query: plan(query, options.retrieved_slices))


def plan(query: Query, retrieved: int) -> Iterator[Visit]:
    """Each slice beside its own support slices, which take the place of its neighbour: a slice of
    another volume has no distance, and one is the least that SAM2 knows."""
    from OFLSAM2Core.methods.common.prompted_frames import Visit, from_middle
    from OFLSAM2Core.methods.common.support_memory import most_similar

    order = [(index, 1) for index in range(query.count)]
    if not query.is_sequence:
        order = from_middle(query.count, backwards_first=True)
    for index, direction in order:
        best = most_similar(query.descriptor(index), query.memory.descriptors, retrieved)
        yield Visit(index, direction, [(index - direction, which) for which in best])
