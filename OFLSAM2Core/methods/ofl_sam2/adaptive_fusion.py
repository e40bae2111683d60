"""The adaptive fusion module: E_tar = W * E1 + (1 - W) * E2 with W = G_theta(E1, E2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from OFLSAM2Core.backbones.base import Backbone


class AdaptiveFusion(nn.Module):
    """G_theta, one convolution, and the lift from memory features to target features.

    The mask decoder takes target features of 256 channels, memory features have 64 (SAM2) or 16
    (LiteMedSAM): the lift, another convolution, adds them to the image features. What SAM2's memory
    attention returns are target features already; what LiteMedSAM's returns are memory features,
    which the same convolution lifts.
    """

    def __init__(self, memory_channels: int, channels: int, lift_offline: bool) -> None:
        super().__init__()
        self.lift = nn.Conv2d(memory_channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(2 * channels, channels, 1)
        self.lift_offline = lift_offline
        assert self.lift.bias is not None and self.gate.bias is not None
        nn.init.normal_(self.lift.weight, std=1e-2)
        nn.init.zeros_(self.lift.bias)
        nn.init.zeros_(self.gate.weight)  # So that both branches count one half at first.
        nn.init.zeros_(self.gate.bias)

    @classmethod
    def for_backbone(cls, backbone: Backbone, seed: int = 0) -> AdaptiveFusion:
        """Freshly initialised from a seed; the caller's random state stays as it is."""
        lift_offline = backbone.attended_channels == backbone.memory_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(backbone.memory_channels, backbone.feature_channels, lift_offline)

    def forward(
        self,
        embedding: Tensor,
        attended: Tensor | None,
        mapped: Tensor | None,
        adaptive: bool = True,
    ) -> Tensor:
        """E_tar, (N, 256, h, w).

        embedding: image features (1, 256, h, w). attended: what memory attention reads out,
        (N, ...), None without the offline branch. mapped: T_tau's memory features (N, M, h, w),
        None without the online branch. adaptive: False takes the mean of both (ablation).
        """
        targets = []
        if attended is not None:
            targets.append(embedding + self.lift(attended) if self.lift_offline else attended)
        if mapped is not None:
            targets.append(embedding + self.lift(mapped))
        if len(targets) < 2:
            return targets[0]
        first, second = targets
        if not adaptive:
            return (first + second) / 2
        weight = torch.sigmoid(self.gate(torch.cat([first, second], dim=1)))
        return weight * first + (1 - weight) * second
