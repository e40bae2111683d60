"""What an untrained memory attention reads out of masks, as probabilities (LiteMedSAM).

The attention's softmax averages over many places, most of them background, so that probabilities of
a structure are too low everywhere: on hippocampi the best threshold is about 0.3, not 0.5. The
threshold of each structure is chosen on the support, whose slices are read from the other cases as
a new volume's slices are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures, LearnedAttention, Memory

MOST_READ = 12
"""Support slices that are read to choose the thresholds."""

THRESHOLDS = tuple(number / 20 for number in range(1, 20))
"""Those that are tried: 0.05 to 0.95."""


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


def best_thresholds(read: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Each structure's threshold with the highest Dice over all slices together, (N,). A structure
    that no slice shows has 0.5.

    read, truth: what was read of each slice, and its masks, (N, H, W) from 0 to 1.
    """
    masks = [each > 0.5 for each in truth]
    dices = []
    for threshold in THRESHOLDS:
        found = [each > threshold for each in read]
        both = sum((one & other).sum(dim=(1, 2)) for one, other in zip(found, masks, strict=True))
        either = sum(
            one.sum(dim=(1, 2)) + other.sum(dim=(1, 2))
            for one, other in zip(found, masks, strict=True)
        )
        dices.append(2 * both / torch.as_tensor(either).clamp(min=1))
    table = torch.stack([torch.as_tensor(each) for each in dices])
    thresholds = torch.tensor(THRESHOLDS)[table.argmax(dim=0).cpu()]
    shown = torch.stack([each.flatten(1).any(dim=1) for each in masks]).any(dim=0).cpu()
    return torch.where(shown, thresholds, torch.full_like(thresholds, 0.5))


def apply_thresholds(masks: Tensor, thresholds: Tensor) -> Tensor:
    """Masks (N, H, W) with each structure's threshold (N,) moved to 0.5; 0 and 1 stay."""
    threshold = thresholds.to(masks)[:, None, None]
    below = masks / (2 * threshold)
    above = 1 - (1 - masks) / (2 * (1 - threshold))
    return torch.where(masks < threshold, below, above)
