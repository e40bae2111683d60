"""FS-MedSAM2: support slices as the first frames, propagation from the middle both ways.

From the public description of FS-MedSAM2 (Bai et al. 2024), whose protocol cuts the support's
extent into parts and takes the middle slice of each (docs/decisions/0031-sam2-family.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from OFLSAM2Core.methods.common.prompted_method import PromptedMethod
from OFLSAM2Core.methods.common.slicing_options import SlicingOptions
from OFLSAM2Core.methods.options import Options, option

if TYPE_CHECKING:
    from OFLSAM2Core.methods.common.prompted_run import Query, SupportChoice, Visit


@dataclass(frozen=True)
class FsMedSam2LearnOptions(SlicingOptions):
    parts: int = option(
        3,
        "Parts that a support case's labelled slices are divided into; the middle slice of each is "
        "prompted.",
        low=1,
        high=32,
    )


class FsMedSam2(PromptedMethod):
    """See the module."""

    name = "fs-medsam2"
    description = "SAM2 with support slices as the first frames, followed from the middle both ways"
    LearnOptions = FsMedSam2LearnOptions
    SegmentOptions = Options

    def choice(self, options: FsMedSam2LearnOptions) -> SupportChoice:
        from OFLSAM2Core.methods.common.prompted_run import SupportChoice

        return SupportChoice(
            lambda labelled: middles(labelled, options.parts), together=3 * options.parts
        )

    def plan(self, query: Query, options: Options) -> Iterator[Visit]:
        """All support slices before the volume; from the middle to the end, then to the beginning.
        A sequence in its own order."""
        from OFLSAM2Core.methods.common.prompted_frames import before_the_volume, from_middle
        from OFLSAM2Core.methods.common.prompted_run import Visit

        prompts = before_the_volume(range(len(query.memory.memories)))
        order = [(index, 1) for index in range(query.count)]
        for index, direction in order if query.is_sequence else from_middle(query.count):
            yield Visit(index, direction, prompts)


def middles(labelled: Sequence[int], parts: int) -> list[int]:
    """The middle of each of `parts` equal parts of the labelled slices, each slice once."""
    parts = min(parts, len(labelled))
    return [labelled[int((part + 0.5) * len(labelled) / parts)] for part in range(parts)]
