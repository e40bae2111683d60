"""Label fusion: the labels of several atlases, registered to a volume, joined into one prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 3.0
"""How much more an atlas counts where it is more similar to the volume."""

NEARBY = 5
"""Cells along the side of the neighbourhood in which that is judged."""


def majority(labels: Tensor, has: Tensor) -> Tensor:
    """Majority voting: the share of atlases that have a structure at a place, (N, D, H, W).

    labels: of S atlases, (S, N, D, H, W). has: which atlas has which structure, (S, N); the others
    have no vote on it.
    """
    weights = has[:, :, None, None, None].to(labels)
    return (weights * labels).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-6)


def locally_weighted(labels: Tensor, apart: Tensor, has: Tensor) -> Tensor:
    """Locally weighted voting (Iglesias and Sabuncu 2015): an atlas counts for more where it is
    more similar to the volume, (N, D, H, W).

    apart: by how much each atlas differs from the volume, (S, C, D, H, W). Else as `majority`.
    """
    around = F.pad(apart.square().mean(dim=1, keepdim=True), [NEARBY // 2] * 6, mode="replicate")
    nearby = F.avg_pool3d(around, NEARBY, stride=1)
    weights = torch.exp(-SHARPNESS * nearby / nearby.mean().clamp(min=1e-6))
    weights = weights * has[:, :, None, None, None]
    return (weights * labels).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-6)
