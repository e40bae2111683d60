"""The memory bank (offline branch): recent confident slices beside the K retrieved support slices
(`methods/common/support_memory.py`), and the quality gate that decides which slices enter it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Memory


def confident_structures(scores: Tensor, gamma: float, update: str) -> list[int]:
    """Quality gate, S_cf > gamma: indices of the structures that may be learned from.

    scores: S_cf, (N,). update: "gated" as the paper has it, "always" or "none" for ablation.
    Structures pass one by one, since one may be confident where another is not. An empty prediction
    passes where no probability is high, and is then in memory as an empty slice.
    """
    if update == "none":
        return []
    if update == "always":
        return list(range(len(scores)))
    return torch.nonzero(scores > gamma).flatten().tolist()


@dataclass
class RecentMemory:
    """The last confident slices in one direction of travel, at most `size` for each structure."""

    size: int
    _slices: dict[int, list[tuple[int, Memory]]] = field(default_factory=dict)

    def add(self, position: int, memory: Memory, structures: Sequence[int]) -> None:
        """Remember slice `position` for those structures; the oldest is forgotten."""
        for structure in structures if self.size else ():
            kept = self._slices.setdefault(structure, [])
            kept.append((position, memory.of([structure])))
            del kept[: -self.size]

    def groups(self, count: int) -> list[tuple[list[int], list[tuple[int, Memory]]]]:
        """All of `count` structures, once, with what they remember: those that remember the same
        slices together, so that they are attended as one batch."""
        found: dict[tuple[int, ...], list[int]] = {}
        for structure in range(count):
            key = tuple(position for position, _ in self._slices.get(structure, ()))
            found.setdefault(key, []).append(structure)
        return [
            (structures, [(at, self._stacked(at, structures)) for at in key])
            for key, structures in found.items()
        ]

    def _stacked(self, position: int, structures: Sequence[int]) -> Memory:
        each = [dict(self._slices[structure])[position] for structure in structures]
        pointers = [memory.pointer for memory in each if memory.pointer is not None]
        return Memory(
            torch.cat([memory.features for memory in each]),
            each[0].position,
            torch.cat(pointers) if pointers else None,
        )
