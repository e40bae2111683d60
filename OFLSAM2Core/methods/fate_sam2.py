"""FATE-SAM: for each slice the most similar support slices as temporary conditioning frames.

From the public description of FATE-SAM (He et al. 2025): training-free, the three most similar
support slices that show any structure, recent slices of the volume kept in memory, from the middle
backwards first and then forwards (docs/decisions/0031-sam2-family.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from OFLSAM2Core.methods.common.prompted_method import PromptedMethod, RetrievedSlices

if TYPE_CHECKING:
    from OFLSAM2Core.methods.common.prompted_run import Query, Visit


class FateSam2(PromptedMethod):
    """See the module."""

    name = "fate-sam2"
    description = "SAM2 with each slice's most similar support slices as temporary mask prompts"

    def plan(self, query: Query, options: RetrievedSlices) -> Iterator[Visit]:
        """Each slice with its own support slices, one frame away: a slice of another volume has no
        distance, and one frame is the least that SAM2 knows."""
        from OFLSAM2Core.methods.common.prompted_frames import from_middle
        from OFLSAM2Core.methods.common.prompted_run import Visit
        from OFLSAM2Core.methods.common.support_memory import most_similar

        order = [(index, 1) for index in range(query.count)]
        if not query.is_sequence:
            order = from_middle(query.count, backwards_first=True)
        for index, direction in order:
            bank = query.memory.descriptors
            best = most_similar(query.descriptor(index), bank, options.retrieved_slices)
            yield Visit(index, direction, [(index - direction, which) for which in best])
