"""Retrieval: which support slices look most like this one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 8


def descriptor(embedding: Tensor) -> Tensor:
    """A slice in short: its standardised embedding (B, C, h, w) on an 8 x 8 grid, unit length.

    The grid keeps where things are, which mean pooling over the whole slice loses.
    """
    return F.normalize(F.adaptive_avg_pool2d(embedding.float(), GRID).flatten(1), dim=1)


def most_similar(query: Tensor, support: Tensor, count: int) -> list[int]:
    """Indices of the `count` rows of `support` (T, D) most similar to `query` (D,) by cosine,
    best first."""
    similarity = support @ query
    best = torch.topk(similarity, min(count, len(similarity))).indices
    return [int(index) for index in best]
