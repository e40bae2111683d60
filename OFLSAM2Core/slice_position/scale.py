"""Where slices lie along the slice axis: slice positions.

Slice position 0 is the middle of the structures and -1 and 1 are their ends. In a support case they
are known from its labels, in a new volume from registered support cases and from what is predicted
(`extents.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PositionScale:
    """From millimetres along the slicing axis to slice positions: (position - middle) / half."""

    middle: float
    half: float

    @classmethod
    def of_labels(cls, labels: npt.NDArray, spacing: float) -> PositionScale:
        """The scale of a support case, from its labels as canonical slices (S, H, W)."""
        return cls.of_slices(np.asarray(labels.any(axis=(1, 2))), spacing)

    @classmethod
    def of_slices(cls, full: npt.NDArray, spacing: float) -> PositionScale:
        """From which slices have a structure (S,), at least one."""
        positions = np.flatnonzero(full) * spacing
        middle = float(positions.min() + positions.max()) / 2
        return cls(middle, max(float(np.ptp(positions)) / 2, spacing))

    def level(self, position: float) -> float:
        return (position - self.middle) / self.half
