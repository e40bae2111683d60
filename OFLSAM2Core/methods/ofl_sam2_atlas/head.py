"""The head: logits from frozen features, the mapping network, the prior and the slice position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.methods.common.high_pass import BLOCK
from OFLSAM2Core.methods.common.mapping_network import PcaFeatureMap
from OFLSAM2Core.methods.common.unet import UNet
from OFLSAM2Core.slice_position.encoding import LEVELS, level_bumps, through_places

WIDTH = 32
"""Channels on the features' grid; twice and three times as many on the coarser ones."""

SURE = 3.0
"""Logits of what the mapping network is sure of, before training."""


class Head(nn.Module):
    """(B, N, S, S) logits of N structures of B slices, on the image's grid.

    What the mapping network says is read as it is, and by a small U-Net on the features' grid that
    sees besides the features' components, fine detail, the prior, and the slice position.
    """

    def __init__(self, components: int, structures: int) -> None:
        fine = 1 + 2 * structures
        super().__init__()
        inputs = components + fine * BLOCK**2 + 3 + LEVELS
        self.u_net = UNet(inputs, structures * BLOCK**2, WIDTH)
        self.structures = structures
        self.gain = nn.Parameter(torch.full((structures,), SURE))
        self.offset = nn.Parameter(torch.zeros(structures))

    def forward(self, components: Tensor, fine: Tensor, levels: Sequence[float | None]) -> Tensor:
        """components: (B, C, h, w). fine: detail, what the mapping network says, prior: (B, 1 + 2
        N, 4h, 4w). levels: slice positions, None where they are not known."""
        return self.from_last(self.to_last(components, fine, levels), fine)

    def from_last(self, last: Tensor, fine: Tensor) -> Tensor:
        """The logits by what the last layer sees, `to_last`."""
        mapped = fine[:, 1 : 1 + self.structures]
        found = F.pixel_shuffle(self.u_net.leave(last), BLOCK)
        return found + self.gain[:, None, None] * mapped + self.offset[:, None, None]

    def to_last(self, components: Tensor, fine: Tensor, levels: Sequence[float | None]) -> Tensor:
        """What the last layer sees, (B, WIDTH, h, w)."""
        seen = torch.cat([components, F.pixel_unshuffle(fine, BLOCK)], dim=1)
        return self.u_net.to_last(torch.cat([seen, _position(seen, levels)], dim=1))


@dataclass(frozen=True)
class Mapping:
    """The mapping network as the support gives it: tau (N, D, M) on a feature map's components."""

    features: PcaFeatureMap
    tau: Tensor

    def of_features(self, components: Tensor) -> Tensor:
        """The part that features make of components (C, h, w): (N, 4h, 4w), 1 where it is sure of a
        structure, -1 where it is sure that there is none."""
        return F.pixel_shuffle(self.features.mapped_features(components, self.tau), BLOCK)[:, 0]

    def of_position(self, level: float, side: int) -> Tensor | None:
        """The part that places at a slice position make; None where places are not used."""
        if not self.features.with_places:
            return None
        weights = self.tau[:, self.features.basis.shape[0] * self.features.kernel**2 + 1 :]
        return F.pixel_shuffle(through_places(weights, level, side), BLOCK)[:, 0]

    def __call__(self, components: Tensor, level: float | None) -> Tensor:
        found = self.of_features(components)
        place = self.of_position(0.0 if level is None else level, components.shape[-1])
        return found if place is None else found + place


def _position(maps: Tensor, levels: Sequence[float | None]) -> Tensor:
    """Row, column (-1 to 1), slice position and whether it is known: (B, 3 + LEVELS, h, w). Where
    it is not known, nothing of the place is."""
    count, _, height, width = maps.shape
    known = torch.tensor([[float(level is not None)] for level in levels])
    bumps = torch.stack([level_bumps(level or 0.0) for level in levels]) * known
    of_slice = torch.cat([bumps, known], dim=1)[:, :, None, None].expand(-1, -1, height, width)
    rows = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(count, 1, height, width)
    columns = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(count, 1, height, width)
    where = torch.cat([rows, columns], dim=1) * known[:, :, None, None]
    return torch.cat([where, of_slice], dim=1).to(maps)
