"""SAM2 with mask prompts, nothing learned: what every few-shot use of SAM2 is compared with.

The K support slices most similar to the volume are prompted with their labels as the first frames
of a video, the volume's slices follow from first to last (docs/decisions/0031-sam2-family.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from OFLSAM2Core.methods.common.prompted_method import PromptedMethod, RetrievedSlices

if TYPE_CHECKING:
    from OFLSAM2Core.methods.common.prompted_run import Query, Visit


class Sam2MaskPrompt(PromptedMethod):
    """See the module."""

    name = "sam2-mask-prompt"
    description = "SAM2 as it is: the most similar support slices as mask prompts, then propagation"

    def plan(self, query: Query, options: RetrievedSlices) -> Iterator[Visit]:
        """From first to last, with the slices that are most similar to any probed slice."""
        import torch

        from OFLSAM2Core.methods.common.prompted_frames import before_the_volume
        from OFLSAM2Core.methods.common.prompted_run import Visit

        probes = torch.stack([query.descriptor(index) for index in query.probes])
        likeness = (query.memory.descriptors @ probes.T).amax(dim=1)
        count = min(options.retrieved_slices, len(likeness))
        best = torch.topk(likeness, count).indices.tolist()
        prompts = before_the_volume(best[::-1])  # The most similar is the nearest.
        for index in range(query.count):
            yield Visit(index, 1, prompts)
