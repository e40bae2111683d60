"""Slices read once more, when levels are known better. Encoder, memory and decoder, which are dear,
are not asked again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from OFLSAM2Core.methods.common.mapping_network import MappingNetwork
from OFLSAM2Core.methods.ofl_sam2_atlas.segmentation_head import (
    SegmentationHead,
    mapping_probability,
)
from OFLSAM2Core.slice_position.regression import SlicePosition


@dataclass(frozen=True)
class _Kept:
    """Of one slice, in half precision. seen: (1, F, h, w), as `head_inputs` has it. added: logits
    of decoder and memory, (N, 4h, 4w). there: (N,), 0 where the decoder found no structure."""

    seen: Tensor
    added: Tensor
    there: Tensor


class RefinementPass:
    """Keeps what is needed of every slice: about 1 MB, and 0.13 MB for each structure."""

    def __init__(self, readout: SegmentationHead) -> None:
        self._readout = readout
        self._kept: dict[int, _Kept] = {}

    def keep(self, index: int, seen: Tensor, added: Tensor, there: Tensor) -> None:
        """A slice, as it was read first."""
        self._kept[index] = _Kept(seen.half(), added.half(), there)

    def read(
        self, index: int, level: float, mapping: MappingNetwork | None, voted: Tensor | None
    ) -> Tensor:
        """Probabilities (N, 4h, 4w) of a slice; mapping: None where that branch is switched off.
        voted: (N, 4h, 4w), what support cases say of it; None where they have not been asked."""
        kept = self._kept[index]
        mapped = None if mapping is None else self._mapped(index, level, mapping)[None]
        heard = None if voted is None else voted[None]
        read = self._readout(kept.seen.float(), [SlicePosition(level, again=True)], mapped, heard)[
            0
        ]
        return (read + kept.added.float()).sigmoid() * kept.there[:, None, None]

    def found(self, index: int, level: float, mapping: MappingNetwork) -> Tensor:
        """What the mapping network finds in a slice by itself, (N, 4h, 4w);
        `mapping_probability`."""
        return mapping_probability(self._mapped(index, level, mapping))

    def _mapped(self, index: int, level: float, mapping: MappingNetwork) -> Tensor:
        components = self._kept[index].seen[0, : len(mapping.head.basis)].float()
        return mapping.of_components(components, level)
