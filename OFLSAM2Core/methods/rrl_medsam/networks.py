"""The networks, all of 3D convolutions and for grids whose sides are multiples of 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 4
"""Resolution levels of the encoders, each at half of the one before it; widths double."""

DISTILLED = 2
"""The level whose features are to be the backbone's: a quarter of the grid's cells each way."""

FLOW_LEVEL = 1
"""The finest level that the flow is estimated at; it is interpolated to the grid."""


class Encoder(nn.Module):
    """(B, 1, D, H, W) to a list of (B, 2^l width, D/2^l, H/2^l, W/2^l) for the four levels l."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        # One convolution at the first level: a second one, of few channels at all cells, would take
        # two thirds of the encoder's time on a processor.
        self.blocks = nn.ModuleList([_convolution(1, width)])
        self.blocks.extend(
            nn.Sequential(_convolution(before, own), _convolution(own, own))
            for before, own in zip(widths, widths[1:], strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for block in self.blocks:
            found.append(block(F.avg_pool3d(found[-1], 2) if found else image))
        return found


class MaskDecoder(nn.Module):
    """An encoder's levels to logits (B, outputs, D, H, W): a U-Net's way up.

    prompts: channels of a prompt (B, prompts, D, H, W) that is shown at every level, as the masks
    of the general branch are to the auto-prompting decoder; 0: there is none.
    """

    def __init__(self, width: int, outputs: int, prompts: int = 0) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.prompts = prompts
        self.blocks = nn.ModuleList(
            _convolution(own + below + prompts, own)
            for own, below in zip(widths, widths[1:], strict=False)
        )
        self.leave = nn.Conv3d(width, outputs, 1)

    def forward(self, levels: Sequence[Tensor], prompt: Tensor | None = None) -> Tensor:
        """Raises ValueError where a prompt is missing or not asked for."""
        if (0 if prompt is None else prompt.shape[1]) != self.prompts:
            raise ValueError(f"this decoder takes a prompt of {self.prompts} channels")
        below = levels[-1]
        for own, block in zip(levels[-2::-1], list(self.blocks)[::-1], strict=True):
            seen = [own, _resized(below, own)]
            if prompt is not None:
                depth, height, width = own.shape[2:]
                seen.append(F.adaptive_avg_pool3d(prompt, (depth, height, width)))
            below = block(torch.cat(seen, dim=1))
        return self.leave(below)


class FlowDecoder(nn.Module):
    """Levels of a fixed and of a moving volume to where each cell of the fixed one lies in the
    moving one: displacements in cells, (B, 3, D, H, W); zero before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.deepest = _convolution(2 * widths[-1], widths[-1])
        self.blocks = nn.ModuleList(
            _convolution(2 * own + below, own)
            for own, below in zip(widths[FLOW_LEVEL:], widths[FLOW_LEVEL + 1 :], strict=False)
        )
        self.leave = nn.Conv3d(widths[FLOW_LEVEL], 3, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, fixed: Sequence[Tensor], moving: Sequence[Tensor]) -> Tensor:
        both = [torch.cat(pair, dim=1) for pair in zip(fixed, moving, strict=True)]
        below = self.deepest(both[-1])
        for own, block in zip(both[-2 : FLOW_LEVEL - 1 : -1], list(self.blocks)[::-1], strict=True):
            below = block(torch.cat([own, _resized(below, own)], dim=1))
        return _resized(self.leave(below), fixed[0])


def _convolution(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, outputs, 3, padding=1),
        nn.InstanceNorm3d(outputs, affine=True),
        nn.LeakyReLU(0.1),
    )


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[2:], mode="trilinear", align_corners=False)
