"""The memory bank: support slices that stay, and recent confident slices that rotate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Memory
from OFLSAM2Core.methods.ofl_sam2_atlas.retrieval import most_similar


@dataclass(frozen=True)
class SupportMemory:
    """Memory of support slices; never evicted.

    memories: one a slice, each of all N structures. descriptors: (T, D) for retrieval.
    """

    memories: Sequence[Memory]
    descriptors: Tensor

    def retrieve(self, query: Tensor, level: float, count: int) -> list[Memory]:
        """The `count` (K) slices most similar to a descriptor (D,) at a level."""
        levels = torch.tensor([memory.level for memory in self.memories], device=query.device)
        best = most_similar(query, level, self.descriptors, levels, count)
        return [self.memories[index] for index in best]


@dataclass
class RecentMemory:
    """The last confident slices in one direction of travel, at most `size` a structure.

    Kept per structure: one may be sure where another is not.
    """

    size: int
    _slices: dict[int, list[tuple[int, Memory]]] = field(default_factory=dict)

    def add(self, position: int, memory: Memory, trusted: Sequence[int]) -> None:
        """Remember slice `position` for the structures in `trusted`."""
        if self.size == 0:
            return
        for structure in trusted:
            kept = self._slices.setdefault(structure, [])
            kept.append((position, memory.of([structure])))
            del kept[: -self.size]

    def groups(self, count: int) -> list[tuple[list[int], list[int]]]:
        """Structures that remember the same slices, so that they can be attended together:
        (structures, positions) for each group, all of `count` structures once."""
        found: dict[tuple[int, ...], list[int]] = {}
        for structure in range(count):
            key = tuple(at for at, _ in self._slices.get(structure, []))
            found.setdefault(key, []).append(structure)
        return [(structures, list(key)) for key, structures in found.items()]

    def together(self, position: int, structures: Sequence[int]) -> Memory:
        """The memory of slice `position`, of structures of one group, stacked."""
        each = [dict(self._slices[structure])[position] for structure in structures]
        pointers = [memory.pointer for memory in each if memory.pointer is not None]
        return Memory(
            torch.cat([memory.features for memory in each]),
            each[0].position,
            torch.cat(pointers) if pointers else None,
            each[0].level,
        )
