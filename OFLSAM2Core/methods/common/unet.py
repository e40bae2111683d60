"""A U-Net that is learned in minutes on a processor: three grids, 0.4 million weights.

In the manner of Ronneberger et al. 2015, with residual blocks and group normalisation, which does
not ask for large batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.slice_position.encoding import LEVELS, level_bumps
from OFLSAM2Core.slice_position.regression import SlicePosition

GROUPS = 8


class UNet(nn.Module):
    """(B, channels, h, w) at levels along the body to (B, outputs, h, w), zero before training."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels + 3 + LEVELS, width, 1)
        self.fine = _Block(width, width)
        self.middle = _Block(width, 2 * width)
        self.coarse = _Block(2 * width, 3 * width)
        self.up_to_middle = _Block(5 * width, 2 * width)
        self.up_to_fine = _Block(3 * width, width)
        self.leave = nn.Conv2d(width, outputs, 1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, seen: Tensor, levels: Sequence[SlicePosition]) -> Tensor:
        fine = self.fine(self.enter(torch.cat([seen, _where(seen, levels)], dim=1)))
        middle = self.middle(F.avg_pool2d(fine, 2, ceil_mode=True))
        coarse = self.coarse(F.avg_pool2d(middle, 2, ceil_mode=True))
        middle = self.up_to_middle(torch.cat([upsample_like(coarse, middle), middle], dim=1))
        fine = self.up_to_fine(torch.cat([upsample_like(middle, fine), fine], dim=1))
        return self.leave(fine)


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


def upsample_like(coarse: Tensor, like: Tensor) -> Tensor:
    """Maps (B, C, h, w), bilinearly on the grid of `like` (..., H, W)."""
    return F.interpolate(coarse, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _where(maps: Tensor, levels: Sequence[SlicePosition]) -> Tensor:
    """Row, column (-1 to 1), level and how it was found, of every position:
    (B, 3 + LEVELS, h, w)."""
    count, _, height, width = maps.shape
    rows = torch.linspace(-1, 1, height).view(1, 1, height, 1).expand(count, 1, height, width)
    columns = torch.linspace(-1, 1, width).view(1, 1, 1, width).expand(count, 1, height, width)
    bumps = torch.stack([level_bumps(level.value) for level in levels])
    again = torch.tensor([[float(level.again)] for level in levels])
    of_slice = torch.cat([bumps, again], dim=1)
    return torch.cat(
        [rows, columns, of_slice[:, :, None, None].expand(-1, -1, height, width)], dim=1
    ).to(maps)
