"""What was corrected in a volume so far, on its canonical slices and as the encoder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.preprocessing.letterbox import Letterbox


@dataclass(frozen=True, eq=False)
class Corrected:
    """labels: canonical slices (S, H, W), truth where `known`, the same shape, is set."""

    labels: npt.NDArray
    known: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, corrections: Corrections, slicing: SliceGeometry) -> Corrected:
        """Copies: what the caller does with its arrays later changes nothing."""
        labels, known = (slicing.to_slices(a) for a in (corrections.labels, corrections.known))
        return cls(np.array(labels, np.uint8, order="C"), np.array(known, bool, order="C"))

    def then(self, later: Corrected) -> Corrected:
        """Both; where both know a voxel, the later label."""
        labels = np.where(later.known, later.labels, self.labels)
        return Corrected(labels, self.known | later.known)

    @property
    def slices(self) -> list[int]:
        """Slices in which something is known."""
        return np.flatnonzero(self.known.any(axis=(1, 2))).tolist()

    def masks(self, index: int, structures: Sequence[Structure]) -> npt.NDArray[np.bool_]:
        """Masks of a slice, (N, H, W); they mean nothing where it is not known."""
        return np.stack([self.labels[index] == each.label for each in structures])

    def in_window(
        self, index: int, structures: Sequence[Structure], framing: Letterbox
    ) -> tuple[Tensor, Tensor]:
        """How much of every pixel of a slice structures cover, (N, S, S), and how much of it is
        known, (S, S), both in [0, 1]. Beside the slice nothing is known."""
        planes = np.concatenate([self.masks(index, structures), self.known[index][None]])
        shown = torch.from_numpy(framing.to_network(planes))
        return shown[:-1], shown[-1]
