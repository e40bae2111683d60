"""Memory features of support slices, to retrieve from: what memory starts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Memory

GRID = 8
"""Retrieval compares features on a grid of this side, which keeps where things are."""


def descriptor(features: Tensor) -> Tensor:
    """What retrieval compares: features (1, C, h, w) on a coarse grid, unit length: (D,)."""
    return F.normalize(F.adaptive_avg_pool2d(features.float(), GRID).flatten(), dim=0)


def most_similar(query: Tensor, bank: Tensor, count: int) -> list[int]:
    """The `count` slices most similar to a query, best first: indices into `bank` (T, D), by the
    cosine of descriptors."""
    likeness = bank.float() @ query
    return [int(index) for index in torch.topk(likeness, min(count, len(bank))).indices]


def spread(items: Sequence[int], count: int) -> list[int]:
    """So many of the items, evenly, with the first and the last."""
    count = min(count, len(items))
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


@dataclass(frozen=True)
class SupportMemory:
    """Memory features of support slices, never evicted.

    memories: one a slice, each of all N structures. descriptors: (T, D). labelled: (T,) bool,
    whether the slice shows any structure. cases: (T,), which support case it is of, from 0.
    """

    memories: Sequence[Memory]
    descriptors: Tensor
    labelled: Tensor
    cases: Tensor

    def retrieve(self, query: Tensor, count: int) -> list[Memory]:
        """The slices most similar to a descriptor (D,), best first."""
        return [self.memories[i] for i in most_similar(query, self.descriptors, count)]

    def likeness(self, query: Tensor) -> float:
        """To the most similar slice that shows a structure, if any does: a cosine."""
        bank = self.descriptors[self.labelled] if self.labelled.any() else self.descriptors
        return float((bank.float() @ query).max())

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, for a method's state; features in the precision that SAM2 keeps them in."""
        tensors = {
            "features": torch.stack([m.features for m in self.memories]).bfloat16(),
            "descriptors": self.descriptors.half(),
            "labelled": self.labelled,
            "cases": self.cases,
        }
        for name in ("position", "pointer"):
            values = [getattr(m, name) for m in self.memories if getattr(m, name) is not None]
            if values:
                tensors[name] = torch.stack(values).half()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SupportMemory:
        """Raises KeyError where one is missing."""
        memories = [
            Memory(
                features.float(),
                _at(tensors.get("position"), number),
                _at(tensors.get("pointer"), number),
            )
            for number, features in enumerate(tensors["features"])
        ]
        descriptors = tensors["descriptors"].float()
        return cls(memories, descriptors, tensors["labelled"], tensors["cases"])


def _at(tensor: Tensor | None, number: int) -> Tensor | None:
    return None if tensor is None else tensor[number].float()
