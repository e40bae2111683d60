"""SAM2 with mask prompts, nothing learned: what every few-shot use of SAM2 is compared with.

The K support slices most similar to the volume are prompted with their labels as the first frames
of a video, the volume's slices follow from first to last (docs/decisions/0030).
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
        3, "K, the support slices most similar to the volume that are prompted.", low=1, high=16
    )


class Sam2MaskPrompt:
    """See the module."""

    name = "sam2-mask-prompt"
    description = "SAM2 as it is: the most similar support slices as mask prompts, then propagation"
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
    """From first to last, with the K support slices that are most similar to any probed slice."""
    import torch

    from OFLSAM2Core.methods.common.prompted_frames import Visit, before_the_volume

    probes = torch.stack([query.descriptor(index) for index in query.probes])
    likeness = (query.memory.descriptors @ probes.T).amax(dim=1)
    best = torch.topk(likeness, min(retrieved, len(likeness))).indices.tolist()
    prompts = before_the_volume(best[::-1])  # The most similar is the nearest.
    for index in range(query.count):
        yield Visit(index, 1, prompts)
