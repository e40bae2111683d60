"""A closer look: a square around the structures, once whole slices have shown where they are.

Where structures are small in their slices, walls and organs are a few positions of the network's
features. So the support is learned from a second time, from a square around its structures, and a
new volume is read a second time where structures were drawn. Seen so near, other things are lost
from sight, so it takes both: hearts 0.820 as whole slices alone, 0.800 as squares, 0.832 together
(docs/decisions/0011).
"""

from __future__ import annotations

import torch
from torch import Tensor

from OFLSAM2Core.methods.ofl_sam2_atlas.view_model import weighed
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume


def by_both(
    whole: ProbabilityVolume,
    prepared: PreprocessedVolume,
    near: ProbabilityVolume,
    square: PreprocessedVolume,
    device: torch.device,
) -> ProbabilityVolume:
    """Both readings `weighed`, on the slices' own grid within the square's region."""
    top, bottom, left, right = square.framing.region

    def fused(index: int) -> Tensor:
        far, close = (
            shown.to_grid(volume.slice(index, device))[:, top:bottom, left:right]
            for volume, shown in ((whole, prepared), (near, square))
        )
        return weighed(far, close)

    return ProbabilityVolume.of_slices(map(fused, range(whole.count)))
