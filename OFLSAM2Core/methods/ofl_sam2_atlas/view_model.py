"""A look at volumes shown in another way, besides the slices that are read first.

So that a second opinion costs little there is no memory here and no decoder: features, places, the
mapping network as the support gives it, and the small U-Net, at levels that are known from what was
drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.methods.common.feature_cache import FeatureCache
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics
from OFLSAM2Core.methods.common.mapping_network import PcaFeatureMap
from OFLSAM2Core.methods.ofl_sam2_atlas.segmentation_head import (
    SegmentationHead,
    head_inputs,
    mapping_probability,
)
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.runtime.named_tensors import named, part_of
from OFLSAM2Core.slice_position.regression import PositionScale, SlicePosition

WEIGHT = 2 / 3
"""Of a look's logits, where those of the slices that were read first, which come from memory and
decoder too, have 1. Hearts, looked at closer: 0.830, 0.832, 0.826 and 0.818 with 0.4, 2/3, 1 and
1.5."""

LEAST = 1 / 510
"""What a probability of 0 counts for, in bytes, when logits are averaged."""


@dataclass(frozen=True)
class ViewModel:
    """What is learned from the support shown in that way.

    tau: (N, D, M), the mapping network as the support gives it. readout: of the U-Net and the
    mapping network alone.
    """

    head: PcaFeatureMap
    tau: Tensor
    readout: SegmentationHead

    @torch.no_grad()
    def read(
        self,
        backbone: Backbone,
        prepared: PreprocessedVolume,
        slicing: SliceGeometry,
        scale: PositionScale,
        indices: Sequence[int],
        use_mapping: bool,
        message: str,
        on_progress: ProgressCallback,
        votes: AtlasPrior | None = None,
    ) -> tuple[ProbabilityVolume, ProbabilityVolume | None]:
        """Probabilities of the slices `indices`, one after the other, on the network's grid, and
        what the mapping network finds by itself (`mapping_probability`), where it says that.

        scale: levels, as what was drawn gives them. message: of progress. votes: of support cases
        that have been laid over the volume.
        """
        encoded = FeatureCache(backbone, prepared)
        statistics = FeatureStatistics.of_volume(
            slicing.count, encoded, prepared.valid_region, backbone.image_size
        )
        shape = len(self.tau), len(indices), 4 * backbone.feature_size
        read = ProbabilityVolume.empty(*shape)
        found = None
        if use_mapping and backbone.memory_is_mask:
            found = ProbabilityVolume.empty(*shape)
        for place, index in enumerate(indices):
            on_progress(Progress("finish", place, len(indices), message))
            level = scale.level(index * slicing.slice_spacing)
            seen = head_inputs([statistics.standardise(encoded(index))], self.head)
            mapped = None
            if use_mapping:
                components = seen[0, : len(self.head.basis)]
                mapped = self.head.mapped(components, self.tau, level)[None]
                if found is not None:
                    found.put(place, mapping_probability(mapped[0]))
            voted: Tensor | None = None
            if votes is not None and self.readout.uses_atlas_prior:
                voted = votes.for_head(index, prepared.framing, read.side).to(seen)[None]
            logits = self.readout(seen, [SlicePosition(level, again=True)], mapped, voted)[0]
            read.put(place, logits.sigmoid())
            encoded.forget(index)
        return read, found

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, for a learned task."""
        readout = named("readout", self.readout.state_dict())
        own = {"basis": self.head.basis, "tau": self.tau, **readout}
        return {name: t.detach().cpu().clone() for name, t in own.items()}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], backbone: Backbone, what: str
    ) -> ViewModel:
        """what: what was looked at, for messages. Raises TaskError when something is missing or
        of another shape."""
        try:
            tau = tensors["tau"].to(backbone.device)
            head = PcaFeatureMap(tensors["basis"].to(backbone.device), with_places=True)
            readout = SegmentationHead.from_tensors(
                part_of(tensors, "readout"), backbone, head, len(tau)
            )
        except (KeyError, RuntimeError) as error:
            raise TaskError(
                f"The learned task lacks what was learned from {what}, or it has another shape.",
                "Learn it again from the support cases.",
            ) from error
        return cls(head, tau, readout)


def weighed(first: Tensor, *looks: Tensor) -> Tensor:
    """The mean of the logits of probabilities, those of `looks` by WEIGHT, as a probability."""
    one, *others = torch.stack([first, *looks]).clamp(LEAST, 1 - LEAST).logit()
    total = one + WEIGHT * sum(others)
    return (total / (1 + WEIGHT * len(others))).sigmoid()
