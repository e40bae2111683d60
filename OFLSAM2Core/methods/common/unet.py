"""A U-Net that is learned in minutes on a processor: three grids, 0.4 million weights.

In the manner of Ronneberger et al. 2015, with residual blocks and group normalisation, which does
not ask for large batches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8
"""Groups of channels that are normalised together: batches are too small to normalise over them."""


class UNet(nn.Module):
    """(B, channels, h, w) to (B, outputs, h, w), zero before training."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 1)
        self.fine = _Block(width, width)
        self.middle = _Block(width, 2 * width)
        self.coarse = _Block(2 * width, 3 * width)
        self.up_to_middle = _Block(5 * width, 2 * width)
        self.up_to_fine = _Block(3 * width, width)
        self.leave = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, maps: Tensor) -> Tensor:
        return self.leave(self.to_last(maps))

    def to_last(self, maps: Tensor) -> Tensor:
        """What the last layer sees, (B, width, h, w)."""
        fine = self.fine(self.enter(maps))
        middle = self.middle(F.avg_pool2d(fine, 2, ceil_mode=True))
        coarse = self.coarse(F.avg_pool2d(middle, 2, ceil_mode=True))
        middle = self.up_to_middle(torch.cat([_upsampled(coarse, middle), middle], dim=1))
        return self.up_to_fine(torch.cat([_upsampled(middle, fine), fine], dim=1))


class _Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, outputs) for _ in range(2))
        self.around = nn.Identity() if channels == outputs else nn.Conv2d(channels, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.gelu(self.norms[0](self.first(maps)))
        return F.gelu(self.norms[1](self.second(inner)) + self.around(maps))


def _upsampled(coarse: Tensor, like: Tensor) -> Tensor:
    """Maps (B, C, h, w), bilinearly on the grid of `like` (..., H, W)."""
    return F.interpolate(coarse, size=like.shape[-2:], mode="bilinear", align_corners=False)
