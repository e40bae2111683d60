"""SAM2 with mask prompts and nothing learned, the baseline of every few-shot use of SAM2.

The K support slices that together are most similar to the volume are the first frames of a video,
prompted with their labels. The volume's slices follow from first to last
(docs/decisions/0031-sam2-family.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from OFLSAM2Core.methods.common.prompted_method import PromptedMethod, RetrievedSlices

if TYPE_CHECKING:
    from torch import Tensor

    from OFLSAM2Core.methods.common.prompted_run import Query, Visit


class Sam2MaskPrompt(PromptedMethod):
    """See the module."""

    name = "sam2-mask-prompt"
    description = "SAM2 as it is: the most similar support slices as mask prompts, then propagation"

    def plan(self, query: Query, options: RetrievedSlices) -> Iterator[Visit]:
        """From first to last, with the slices that together are most similar to the probed ones."""
        import torch

        from OFLSAM2Core.methods.common.prompted_frames import before_the_volume
        from OFLSAM2Core.methods.common.prompted_run import Visit

        probes = torch.stack([query.descriptor(index) for index in query.probes])
        best = covering(query.memory.descriptors @ probes.T, options.retrieved_slices)
        prompts = before_the_volume(best[::-1])  # The most similar is the nearest.
        for index in range(query.count):
            yield Visit(index, 1, prompts)


def covering(likeness: Tensor, count: int) -> list[int]:
    """Numbers of `count` rows that together are most similar to all columns. They are chosen one
    after the other: each time the row that raises the mean, over columns, of the highest similarity
    to a chosen row most.

    likeness: similarity of support slices (rows) and slices of the volume (columns). The `count`
    rows of the highest similarity would all come from the slice position at which patients are most
    similar.
    """
    chosen: list[int] = []
    covered = likeness.new_full((likeness.shape[1],), -1.0)
    for _ in range(min(count, len(likeness))):
        gains = likeness.maximum(covered).mean(dim=1)
        gains[chosen] = -2.0
        chosen.append(int(gains.argmax()))
        covered = covered.maximum(likeness[chosen[-1]])
    return chosen
