"""What an image looks like wherever it was taken: how alike patches are that lie side by side.

MIND-SSC, the self-similarity context of Heinrich et al. (MICCAI 2013, "Towards realtime multimodal
fusion for image-guided interventions using self-similarities"). Grey values do not enter, only how
much six patches around a place differ from one another, relative to how much patches differ there
anyway: so it does not matter how bright a scan is, or with which coil it was taken.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 12
"""Pairs of the six neighbours of a place that are not on opposite sides of it."""

_PATCH = 3
"""Cells along the side of a patch."""

# Indices of the six neighbours in a block of 3 x 3 x 3 cells, whose middle is (1, 1, 1).
_SIX = ((0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1))

# Neighbours that lie diagonally to each other: those of MIND-SSC (Heinrich et al. 2013).
_PAIRS = [
    (one, other)
    for number, one in enumerate(_SIX)
    for other in _SIX[:number]
    if sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) == 2
]

_LEAST = 1e-3
"""Share of the mean difference over the image below which patches count as equal, as in air."""


def mind_ssc(images: Tensor) -> Tensor:
    """(B, 1, D, H, W) to (B, CHANNELS, D, H, W), each in (0, 1], 1 where two patches are the
    most similar of all pairs."""
    padded = F.pad(images, [1] * 6, mode="replicate")
    sides = images.shape[2:]

    def moved(by: tuple[int, ...]) -> Tensor:
        """As seen from a place's neighbour."""
        depth, row, column = (slice(b, b + n) for b, n in zip(by, sides, strict=True))
        return padded[:, :, depth, row, column]

    differences = torch.cat(
        [_averaged((moved(one) - moved(other)).square()) for one, other in _PAIRS], dim=1
    )
    differences = differences - differences.amin(dim=1, keepdim=True)
    usual = differences.mean(dim=1, keepdim=True)
    least = _LEAST * usual.mean(dim=(1, 2, 3, 4), keepdim=True) + torch.finfo(usual.dtype).tiny
    return torch.exp(-differences / usual.maximum(least))


def _averaged(maps: Tensor) -> Tensor:
    """Over a patch around every place."""
    around = F.pad(maps, [_PATCH // 2] * 6, mode="replicate")
    return F.avg_pool3d(around, _PATCH, stride=1)
