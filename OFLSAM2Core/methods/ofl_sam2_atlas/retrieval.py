"""Retrieval: which support slices look most like this one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 8

AWAY = 0.1
"""Cosine that a distance of half the structures' height along the body is worth."""


def descriptor(embedding: Tensor) -> Tensor:
    """A slice in short: its standardised embedding (B, C, h, w) on an 8 x 8 grid, unit length.

    The grid keeps where things are, which mean pooling over the whole slice loses.
    """
    return F.normalize(F.adaptive_avg_pool2d(embedding.float(), GRID).flatten(1), dim=1)


def most_similar(
    query: Tensor, level: float, support: Tensor, levels: Tensor, count: int
) -> list[int]:
    """Indices of the `count` support slices most similar to a query, best first.

    Cosine of descriptors, query (D,) and support (T, D), less a penalty for the distance along
    the body (levels (T,)).
    """
    away = (levels - level).square().clamp(max=4)
    likeness = support.float() @ query - AWAY * away
    best = torch.topk(likeness, min(count, len(likeness))).indices
    return [int(index) for index in best]
