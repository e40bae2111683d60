"""The loss that heads are trained by."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Dice + cross-entropy. logits (B, N, h, w), truth (B, N, S, S) in [0, 1], weights
    (B, N, positions) on the features' grid.

    Dice is taken over the batch, so that slices without the structure count where they should:
    in its false positives. Without weights a U-Net soon predicts nothing of organs that fill a
    thousandth of a slice: all else outweighs the little probability that they have.
    """
    truth = F.interpolate(truth, size=logits.shape[-2:], mode="area")
    side = int(weights.shape[-1] ** 0.5)
    weights = F.interpolate(weights.unflatten(-1, (side, side)), size=logits.shape[-2:])
    probabilities = logits.sigmoid()
    both = (weights * probabilities * truth).sum(dim=(0, 2, 3))
    either = (weights * (probabilities + truth)).sum(dim=(0, 2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, truth, weights)
