"""Adaptive fusion: E_tar = W * E1 + (1 - W) * E2 with W = G_theta(E1, E2).

What is trained by gradient descent, through the frozen decoder, is all here: G_theta, the lift
from memory features to target features, and the offset that the decoder wants on top of image
features. The mapping network itself is fitted (mapping_network.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures
from OFLSAM2Core.slice_position.encoding import LEVELS, level_bumps


class AdaptiveFusion(nn.Module):
    """Target features from the two branches.

    Memory features have few channels (16 or 64) and target features 256, so both branches are
    lifted onto the image features: target = embedding + lift(memory features).
    """

    def __init__(self, memory_channels: int, channels: int, lift_offline: bool) -> None:
        super().__init__()
        self.lift = nn.Conv2d(memory_channels, channels, 3, padding=1)
        self.offset = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(2 * channels, channels, 1)
        self.at_level = nn.Linear(LEVELS, channels)
        self.lift_offline = lift_offline
        nn.init.normal_(self.lift.weight, std=1e-2)
        for layer in (self.offset, self.gate, self.at_level):
            nn.init.zeros_(layer.weight)
        for layer in (self.lift, self.offset, self.gate, self.at_level):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    @classmethod
    def for_backbone(cls, backbone: Backbone) -> AdaptiveFusion:
        lift_offline = backbone.attended_channels == backbone.memory_channels
        return cls(backbone.memory_channels, backbone.feature_channels, lift_offline)

    def forward(
        self,
        features: ImageFeatures,
        attended: Tensor | None,
        mapped: Tensor | None,
        use_fusion: bool = True,
    ) -> Tensor:
        """E_tar (N, 256, h, w).

        attended: what memory attention read out (N, ...), None without the offline branch.
        mapped: what the mapping network predicts (N, M, h, w), None without the online branch.
        use_fusion: False averages the branches instead of weighing them.
        """
        target_1 = None if attended is None else self.offline(features, attended)
        target_2 = None if mapped is None else self.online(features, mapped)
        if target_1 is None or target_2 is None:
            only = target_1 if target_2 is None else target_2
            assert only is not None
            return only
        if not use_fusion:
            return (target_1 + target_2) / 2
        weight = torch.sigmoid(self.gate(torch.cat([target_1, target_2], dim=1)))
        return weight * target_1 + (1 - weight) * target_2

    def offline(self, features: ImageFeatures, attended: Tensor) -> Tensor:
        """E1: attention's output, lifted where it consists of memory features."""
        if self.lift_offline:
            return self._base(features) + self.lift(attended)
        return attended

    def online(self, features: ImageFeatures, mapped: Tensor) -> Tensor:
        """E2: the mapping network's output, lifted."""
        return self._base(features) + self.offset(features.normalized_embedding) + self.lift(mapped)

    def _base(self, features: ImageFeatures) -> Tensor:
        """Image features, and what the level along the body alone says about the structures."""
        bumps = level_bumps(features.level).to(features.embedding)
        return features.embedding + self.at_level(bumps).view(1, -1, 1, 1)
