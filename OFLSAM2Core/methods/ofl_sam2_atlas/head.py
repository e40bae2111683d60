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
from OFLSAM2Core.slice_position.encoding import POSITION_CHANNELS, apply_rbf, slice_position_rbf

WIDTH = 32
"""Channels on the features' grid; twice and three times as many on the coarser ones."""

SURE = 3.0
"""Logits of what the mapping network is sure of, before training."""


class Head(nn.Module):
    """(B, N, S, S) logits of N structures of B slices, on the image's grid.

    The logits are the sum of the mapping network's output, scaled, and that of a small U-Net on the
    features' grid. The input of the U-Net is the features' components, fine detail, the mapping
    network's output, the prior, and the slice position.
    """

    def __init__(self, components: int, structures: int) -> None:
        fine = 1 + 2 * structures
        super().__init__()
        inputs = components + fine * BLOCK**2 + 3 + POSITION_CHANNELS
        self.u_net = UNet(inputs, structures * BLOCK**2, WIDTH)
        self.structures = structures
        self.gain = nn.Parameter(torch.full((structures,), SURE))
        self.offset = nn.Parameter(torch.zeros(structures))

    def forward(
        self, components: Tensor, fine: Tensor, slice_positions: Sequence[float | None]
    ) -> Tensor:
        """components: (B, C, h, w). fine: detail, the mapping network's output and the
        prior, (B, 1 + 2 N, 4h, 4w). slice_positions: -1 and 1 at the ends of the structures,
        None where they are not known."""
        return self.from_last(self.to_last(components, fine, slice_positions), fine)

    def from_last(self, last: Tensor, fine: Tensor) -> Tensor:
        """The logits from the last layer's input, which `to_last` gives."""
        mapped = fine[:, 1 : 1 + self.structures]
        found = F.pixel_shuffle(self.u_net.leave(last), BLOCK)
        return found + self.gain[:, None, None] * mapped + self.offset[:, None, None]

    def to_last(
        self, components: Tensor, fine: Tensor, slice_positions: Sequence[float | None]
    ) -> Tensor:
        """The last layer's input, (B, WIDTH, h, w)."""
        seen = torch.cat([components, F.pixel_unshuffle(fine, BLOCK)], dim=1)
        return self.u_net.to_last(torch.cat([seen, _position(seen, slice_positions)], dim=1))


@dataclass(frozen=True)
class Mapping:
    """The mapping network fitted to the support: tau (N, D, M) on the components of a feature
    map."""

    features: PcaFeatureMap
    tau: Tensor

    def of_features(self, components: Tensor) -> Tensor:
        """The output for components (C, h, w), without positions: (N, 4h, 4w), about 1 in a
        structure and -1 outside."""
        return F.pixel_shuffle(self.features.mapped_features(components, self.tau), BLOCK)[:, 0]

    def of_position(self, slice_position: float, side: int) -> Tensor | None:
        """The part of the output that positions give; None where positions are not used."""
        if not self.features.with_places:
            return None
        weights = self.tau[:, self.features.basis.shape[0] * self.features.kernel**2 + 1 :]
        return F.pixel_shuffle(apply_rbf(weights, slice_position, side), BLOCK)[:, 0]

    def __call__(self, components: Tensor, slice_position: float | None) -> Tensor:
        found = self.of_features(components)
        place = self.of_position(
            0.0 if slice_position is None else slice_position, components.shape[-1]
        )
        return found if place is None else found + place


def _position(maps: Tensor, slice_positions: Sequence[float | None]) -> Tensor:
    """Row and column (-1 to 1), the slice position as radial basis functions, and whether it is
    known: (B, 3 + POSITION_CHANNELS, h, w). All are 0 where it is not known."""
    count, _, height, width = maps.shape
    known = torch.tensor(
        [[float(slice_position is not None)] for slice_position in slice_positions]
    )
    basis = (
        torch.stack(
            [slice_position_rbf(slice_position or 0.0) for slice_position in slice_positions]
        )
        * known
    )
    of_slice = torch.cat([basis, known], dim=1)[:, :, None, None].expand(-1, -1, height, width)
    rows = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(count, 1, height, width)
    columns = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(count, 1, height, width)
    where = torch.cat([rows, columns], dim=1) * known[:, :, None, None]
    return torch.cat([where, of_slice], dim=1).to(maps)
