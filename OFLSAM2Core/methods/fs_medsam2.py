"""FS-MedSAM2: support slices as the first frames, propagation from the middle both ways.

From the public description of FS-MedSAM2 (Bai et al. 2024), whose protocol cuts the support's
extent into parts and takes the middle slice of each (docs/decisions/0030).
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
    parts: int = option(
        3,
        "Parts that the labelled slices of a support case are cut into; of each the middle slice "
        "is prompted.",
        low=1,
        high=32,
    )


@dataclass(frozen=True)
class SegmentOptions(Options):
    """There are none."""


class FsMedSam2:
    """See the module."""

    name = "fs-medsam2"
    description = "SAM2 with support slices as the first frames, followed from the middle both ways"
    needs_backbone = True
    sequences = True
    LearnOptions = LearnOptions
    SegmentOptions = SegmentOptions
    presets: dict[str, dict[str, object]] = {}

    def learn(
        self, ctx: Context, support: Sequence[SupportCase], options: LearnOptions
    ) -> MethodState:
        """Encode the middle slice of each part of each case; nothing is trained."""
        from OFLSAM2Core.methods.common.prompted_frames import PromptState

        state = PromptState.learn(
            ctx,
            support,
            options.slicing_axis,
            options.intensity_window,
            lambda labelled: middles(labelled, options.parts),
        )
        return state.encode()

    def open(
        self, ctx: Context, volume: Volume, task: LearnedTask, options: SegmentOptions
    ) -> PromptedRun:
        from OFLSAM2Core.methods.common.prompted_frames import PromptedRun

        return PromptedRun(ctx, volume, task, plan)


def middles(labelled: Sequence[int], parts: int) -> list[int]:
    """The middle of each of `parts` equal parts of the labelled slices, each slice once."""
    parts = min(parts, len(labelled))
    return [labelled[int((part + 0.5) * len(labelled) / parts)] for part in range(parts)]


def plan(query: Query) -> Iterator[Visit]:
    """All support slices before the volume; from the middle to the end, then to the beginning. A
    sequence in its own order."""
    from OFLSAM2Core.methods.common.prompted_frames import Visit, before_the_volume, from_middle

    prompts = before_the_volume(range(len(query.memory.memories)))
    order = [(index, 1) for index in range(query.count)]
    for index, direction in order if query.is_sequence else from_middle(query.count):
        yield Visit(index, direction, prompts)
