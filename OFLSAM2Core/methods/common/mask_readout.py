"""What an untrained memory attention reads out of masks, as probabilities (LiteMedSAM).

Its softmax averages over many places, most of them background, so that a structure is read out too
weakly everywhere: on hippocampi the best level is about 0.3, not 0.5. The level of each structure
is taken from the support, whose slices are read from the other cases as a new volume's would be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures, LearnedAttention, Memory

MOST_READ = 12
"""Support slices that are read to find the levels."""

LEVELS = tuple(number / 20 for number in range(1, 20))


def read_masks(
    backbone: Backbone,
    features: ImageFeatures,
    memories: Sequence[Memory],
    attention: LearnedAttention | None,
) -> Tensor:
    """Masks (N, 4h, 4w) from 0 to 1 as memory attention reads them out of memories of N
    structures."""
    read = backbone.attend(features, memories, [], attention)
    masks = F.pixel_shuffle(read, int(backbone.memory_channels**0.5))
    return (masks[:, 0] / 2 + 0.5).clamp(0, 1)


def best_levels(read: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Of each structure the level at which what was read agrees best with its masks, by the Dice of
    all slices together: (N,). A structure that no slice shows has 0.5.

    read, truth: one a slice, (N, H, W) each, from 0 to 1.
    """
    masks = [each > 0.5 for each in truth]
    dices = []
    for level in LEVELS:
        found = [each > level for each in read]
        both = sum((one & other).sum(dim=(1, 2)) for one, other in zip(found, masks, strict=True))
        either = sum(
            one.sum(dim=(1, 2)) + other.sum(dim=(1, 2))
            for one, other in zip(found, masks, strict=True)
        )
        dices.append(2 * both / torch.as_tensor(either).clamp(min=1))
    table = torch.stack([torch.as_tensor(each) for each in dices])
    levels = torch.tensor(LEVELS)[table.argmax(dim=0).cpu()]
    shown = torch.stack([each.flatten(1).any(dim=1) for each in masks]).any(dim=0).cpu()
    return torch.where(shown, levels, torch.full_like(levels, 0.5))


def at_levels(masks: Tensor, levels: Tensor) -> Tensor:
    """Masks (N, H, W) with each structure's level (N,) moved to 0.5; 0 and 1 stay."""
    level = levels.to(masks)[:, None, None]
    below = masks / (2 * level)
    above = 1 - (1 - masks) / (2 * (1 - level))
    return torch.where(masks < level, below, above)
