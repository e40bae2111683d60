"""A closer look: a square around the structures, once whole slices have shown where they are.

Where structures are small in their slices, walls and organs are a few positions of the network's
features. So the support is learned from a second time, from a square around its structures, and a
new volume is read a second time where structures were drawn. Seen so near, other things are lost
from sight, so it takes both: hearts 0.820 as whole slices alone, 0.800 as squares, 0.832 together
(docs/decisions/0011).

There is no memory here and no decoder, which cost most of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.methods.ofl_sam2.consistency import ProbabilityVolume
from OFLSAM2Core.methods.ofl_sam2.encoded_slices import EncodedSlices
from OFLSAM2Core.methods.ofl_sam2.levels import Level, LevelScale
from OFLSAM2Core.methods.ofl_sam2.mapping_network import FeatureHead
from OFLSAM2Core.methods.ofl_sam2.readout import Readout, seen_of
from OFLSAM2Core.methods.ofl_sam2.statistics import FeatureStatistics
from OFLSAM2Core.named_tensors import named, part_of
from OFLSAM2Core.preparation import PreparedVolume
from OFLSAM2Core.results import Progress, ProgressCallback
from OFLSAM2Core.slicing import Slicing

WEIGHT = 0.4
"""Of the closer look's logits beside those of whole slices, which come from memory and decoder too.
Hearts 0.830, 0.832, 0.826 and 0.818 with 0.3, 0.4, 0.5 and 0.6."""

LEAST = 1 / 510
"""What a probability of 0 counts for, in bytes, when logits are averaged."""


@dataclass(frozen=True)
class CloseUp:
    """What is learned from squares.

    tau: (N, D, M), the mapping network as the support gives it. readout: of the U-Net and the
    mapping network alone.
    """

    head: FeatureHead
    tau: Tensor
    readout: Readout

    @torch.no_grad()
    def read(
        self,
        backbone: Backbone,
        square: PreparedVolume,
        slicing: Slicing,
        scale: LevelScale,
        use_mapping: bool,
        on_progress: ProgressCallback,
    ) -> ProbabilityVolume:
        """Probabilities of all slices on the grid of the network's image of the square.

        scale: levels, as what was drawn in whole slices gives them.
        """
        count = slicing.count
        encoded = EncodedSlices(backbone, square)
        statistics = FeatureStatistics.of_volume(
            count, encoded, square.content_box, backbone.image_size
        )
        found = ProbabilityVolume.empty(len(self.tau), count, 4 * backbone.feature_size)
        for index in range(count):
            on_progress(Progress("finish", index, count, "looking closer"))
            level = scale.level(index * slicing.slice_spacing)
            seen = seen_of([statistics.standardise(encoded(index))], self.head)
            mapped = None
            if use_mapping:
                components = seen[0, : len(self.head.basis)]
                mapped = self.head.mapped(components, self.tau, level)[None]
            logits = self.readout(seen, [Level(level, again=True)], mapped)[0]
            found.put(index, logits.sigmoid())
            encoded.forget(index)
        return found

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, for a learned task."""
        readout = named("readout", self.readout.state_dict())
        own = {"basis": self.head.basis, "tau": self.tau, **readout}
        return named("close_up", {name: t.detach().cpu().clone() for name, t in own.items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], backbone: Backbone) -> CloseUp | None:
        """None of a task without squares. Raises TaskError when something is missing or of another
        shape."""
        own = part_of(tensors, "close_up")
        if not own:
            return None
        try:
            tau = own["tau"].to(backbone.device)
            head = FeatureHead(own["basis"].to(backbone.device), with_places=True)
            readout = Readout.for_backbone(backbone, head, structures=len(tau))
            readout.load_state_dict(part_of(own, "readout"))
        except (KeyError, RuntimeError) as error:
            raise TaskError(
                "The learned task lacks what was learned from squares around its structures, or "
                "it has another shape.",
                "Learn it again from the support cases.",
            ) from error
        readout.eval().requires_grad_(False).to(backbone.device)
        return cls(head, tau, readout)


def by_both(
    whole: ProbabilityVolume,
    prepared: PreparedVolume,
    near: ProbabilityVolume,
    square: PreparedVolume,
    device: torch.device,
) -> ProbabilityVolume:
    """The mean of two readings' logits, by WEIGHT, on the slices' own grid within the square's
    region."""
    top, bottom, left, right = square.framing.region

    def fused(index: int) -> Tensor:
        looks = [
            shown.to_grid(volume.slice(index, device))[:, top:bottom, left:right]
            for volume, shown in ((whole, prepared), (near, square))
        ]
        far, close = torch.stack(looks).clamp(LEAST, 1 - LEAST).logit()
        return ((1 - WEIGHT) * far + WEIGHT * close).sigmoid()

    return ProbabilityVolume.of_slices(map(fused, range(whole.count)))
