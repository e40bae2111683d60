"""Where slices lie along the slice axis: slice positions, and how wrong they are in a new volume.

Slice position 0 is the middle of the structures and -1 and 1 are their ends. In a support case they
are known from its labels, in a new volume from registered support cases and from what is predicted
(`extents.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
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
        """From which slices show a structure, (S,) bool, at least one of them true."""
        positions = np.flatnonzero(full) * spacing
        middle = float(positions.min() + positions.max()) / 2
        return cls(middle, max(float(np.ptp(positions)) / 2, spacing))

    def slice_position(self, position: float) -> float:
        """The slice position of a slice, by its position in mm from the first slice."""
        return (position - self.middle) / self.half


@dataclass(frozen=True)
class PositionNoise:
    """How wrong slice positions are in a new volume: found = true * (1 + a) + b, with the standard
    deviations `scaling` of a and `shift` of b. The defaults are the least that is ever assumed."""

    shift: float = 0.1
    scaling: float = 0.08

    def disturbed(self, slice_position: float, rng: np.random.Generator) -> float:
        """A true slice position with a random error, as it may be found in a new volume."""
        return float(slice_position * rng.normal(1, self.scaling) + rng.normal(0, self.shift))

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[PositionScale, PositionScale]]) -> PositionNoise:
        """From (found, true) scales of support cases, each found by the others.

        The median, since one of three cases may be found far off by the other two, where three find
        new volumes well (left atrium: error 0.65 by two cases, 0.08 by three).
        """
        shifts = [found.slice_position(true.middle) for found, true in pairs]
        scalings = [true.half / found.half - 1 for found, true in pairs]
        return cls(_typical(shifts, cls.shift, 0.4), _typical(scalings, cls.scaling, 0.25))


def _typical(errors: Sequence[float], least: float, most: float) -> float:
    return float(np.clip(np.median(np.abs(errors)), least, most))
