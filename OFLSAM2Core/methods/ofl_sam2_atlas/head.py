"""The head: logits from frozen features, the mapping network and the prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.methods.common.high_pass import BLOCK
from OFLSAM2Core.methods.common.mapping_network import PcaFeatureMap
from OFLSAM2Core.methods.common.unet import UNet

WIDTH = 32
"""Channels on the features' grid; twice and three times as many on the coarser ones."""

SURE = 3.0
"""Logits of what the mapping network is sure of, before training."""


class Head(nn.Module):
    """(B, N, S, S) logits of N structures of B slices, on the image's grid.

    The logits are the sum of the mapping network's output, scaled, and that of a small U-Net on the
    features' grid. The input of the U-Net is the features' components, fine detail, the mapping
    network's output, and the prior.
    """

    def __init__(self, components: int, structures: int) -> None:
        fine = 1 + 2 * structures
        super().__init__()
        inputs = components + fine * BLOCK**2
        self.u_net = UNet(inputs, structures * BLOCK**2, WIDTH)
        self.structures = structures
        self.gain = nn.Parameter(torch.full((structures,), SURE))
        self.offset = nn.Parameter(torch.zeros(structures))

    def forward(self, components: Tensor, fine: Tensor) -> Tensor:
        """components: (B, C, h, w). fine: detail, the mapping network's output and the
        prior, (B, 1 + 2 N, 4h, 4w)."""
        return self.from_last(self.to_last(components, fine), fine)

    def from_last(self, last: Tensor, fine: Tensor) -> Tensor:
        """The logits from the last layer's input, which `to_last` gives."""
        mapped = fine[:, 1 : 1 + self.structures]
        found = F.pixel_shuffle(self.u_net.leave(last), BLOCK)
        return found + self.gain[:, None, None] * mapped + self.offset[:, None, None]

    def to_last(self, components: Tensor, fine: Tensor) -> Tensor:
        """The last layer's input, (B, WIDTH, h, w)."""
        return self.u_net.to_last(torch.cat([components, F.pixel_unshuffle(fine, BLOCK)], dim=1))


@dataclass(frozen=True)
class Mapping:
    """The mapping network fitted to the support: tau (N, D, M) on the components of a feature
    map."""

    features: PcaFeatureMap
    tau: Tensor

    def __call__(self, components: Tensor) -> Tensor:
        """The output for components (C, h, w): (N, 4h, 4w), about 1 in a structure and -1
        outside."""
        return F.pixel_shuffle(self.features.mapped_features(components, self.tau), BLOCK)[:, 0]
