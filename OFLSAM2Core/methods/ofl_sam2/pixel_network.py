"""A U-Net that sees pixels as they are; all else here sees what a frozen encoder makes of them.

Five grids, the finest of two by two pixels, 1.7 million weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.methods.ofl_sam2.levels import Level
from OFLSAM2Core.methods.ofl_sam2.places import LEVELS
from OFLSAM2Core.methods.ofl_sam2.small_u_net import Block, up, where

SEEN = 3
"""Slices that are seen at once: the one that is asked for, and one on either side."""

BLOCK = 2
"""Pixels along the side of a position of the finest grid."""

WIDTH = 32
"""Channels on the finest grid."""

COARSER = (2, 3, 4, 4)
"""Times as many on each of the coarser ones."""

SMALLEST = BLOCK * 2 ** len(COARSER)
"""Images have sides of a multiple of so many pixels."""


class PixelNetwork(nn.Module):
    """(B, SEEN, S, S) images in [0, 1] at levels along the body to logits (B, N, S, S), zero before
    training."""

    def __init__(self, structures: int) -> None:
        super().__init__()
        widths = [WIDTH, *(times * WIDTH for times in COARSER)]
        self.enter = nn.Conv2d(SEEN * BLOCK**2 + 3 + LEVELS, WIDTH, 1)
        pairs = list(zip([WIDTH, *widths], widths, strict=False))
        self.down = nn.ModuleList(Block(above, own) for above, own in pairs)
        self.up = nn.ModuleList(
            Block(below + own, own) for own, below in zip(widths, widths[1:], strict=False)
        )
        self.leave = nn.Conv2d(WIDTH, structures * BLOCK**2, 1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        # Convolutions take a tenth less time.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, levels: Sequence[Level]) -> Tensor:
        positions = F.pixel_unshuffle(images - 0.5, BLOCK)
        maps = torch.cat([positions, where(positions, levels)], dim=1)
        maps = self.enter(maps.contiguous(memory_format=torch.channels_last))
        finer: list[Tensor] = []
        for number, block in enumerate(self.down):
            maps = block(F.avg_pool2d(maps, 2) if number else maps)
            finer.append(maps)
        finer.pop()
        for block in reversed(self.up):
            own = finer.pop()
            maps = block(torch.cat([up(maps, own), own], dim=1))
        return F.pixel_shuffle(self.leave(maps), BLOCK)
