"""Weights of positions in fitting the mapping network and in training.

Most of a slice is background far from any structure. Unweighted least squares then predicts a
structure that fills a thousandth of the slice nowhere: 7 organs of head and neck CT, 3 to 10 voxels
across, had a Dice of 0.06 (docs/experiments/other-sets.md). So positions near a structure have a
higher weight, the higher the smaller the structure is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR = 2
"""Positions from a structure that count as near it."""

NEAR_SHARE = 0.3
"""Share of all weight that the positions near a structure have at least where the mapping network
is fitted. 0.1 to 0.5 were tried."""

NEAR_SHARE_IN_LOSS = 0.1
"""The same in training, where the Dice loss already balances all but the smallest structures."""


@dataclass(frozen=True)
class PositionWeights:
    """Weights of positions, whose mean over the support is 1, for N structures.

    near: (N,), of positions near the structure. far: (N,), of all others.
    """

    near: Tensor
    far: Tensor

    @classmethod
    def from_support(cls, places: Sequence[Tensor], least: float = NEAR_SHARE) -> PositionWeights:
        """From `near_foreground_mask` of the support slices, (N, positions) each. least: the share
        of all weight that those positions have at least."""
        share = torch.stack([p.float().mean(dim=1) for p in places]).mean(dim=0)
        wanted = share.clamp(min=least)
        # A structure that no slice shows (missing in a single case) has no positions to weigh.
        near = torch.where(share > 0, wanted / share.clamp(min=1e-6), 1.0)
        far = torch.where(share > 0, (1 - wanted) / (1 - share).clamp(min=1e-6), 1.0)
        return cls(near, far)

    def even(self) -> PositionWeights:
        """Every position counts the same."""
        return PositionWeights(torch.ones_like(self.near), torch.ones_like(self.far))

    def weights(self, near: Tensor) -> Tensor:
        """(..., N, positions), of positions that are near each structure or not."""
        return torch.where(near, self.near[:, None], self.far[:, None])

    def to(self, device: torch.device | str) -> PositionWeights:
        return PositionWeights(self.near.to(device), self.far.to(device))


def near_foreground_mask(masks: Tensor, side: int) -> Tensor:
    """(N, side * side) bool: which positions are near each structure; masks (N, S, S) in [0, 1]."""
    covered = F.adaptive_max_pool2d(masks[None], side)
    reached = F.max_pool2d(covered, 2 * NEAR + 1, stride=1, padding=NEAR)
    return reached[0].flatten(1) > 0.5
