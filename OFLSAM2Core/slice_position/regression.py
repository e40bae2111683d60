"""Where slices lie along the slice axis: slice positions, and how a new volume's are found.

Slice position 0 is the middle of the structures and -1 and 1 are their ends. In a support case they
are known from its labels. In a new volume they are found by sliding it along the support cases,
made
higher and lower, and seeing where its slices look like theirs: fields of view begin and end
anywhere, so the position within the volume says little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SHIFTS = 100
"""Shifts that are tried, over all that leave the middle of the structures within the volume."""

HALVES = np.geomspace(0.5, 1.65, 9)
"""Heights that are tried, of the support's: a prostate may be half as high as another."""

NEAR = 0.35
"""Deviation of the slice positions that are compared with one another. 0.1 and 0.2 were worse."""

LEAST_WEIGHT = 0.3
"""Of support slices near a slice, to compare it with them."""

LIKEST = 60.0
"""How much more a support case, a shift and a height count that look more like the volume. A
prostate without a coil beside it says little about one with it: with equal cases the error is 0.63
instead of 0.44."""


class SlicePosition(NamedTuple):
    """Where a slice lies, as a network is told. again: whether found again from what was predicted
    (extents.py), and so more surely."""

    value: float
    again: bool = False


@dataclass(frozen=True)
class PositionScale:
    """From millimetres along the slicing axis to levels: (position - middle) / half."""

    middle: float
    half: float

    @classmethod
    def of_labels(cls, labels: npt.NDArray, spacing: float) -> PositionScale:
        """Of a support case, canonical labels (S, H, W)."""
        return cls.of_slices(np.asarray(labels.any(axis=(1, 2))), spacing)

    @classmethod
    def of_slices(cls, full: npt.NDArray, spacing: float) -> PositionScale:
        """From which slices have a structure (S,), at least one."""
        positions = np.flatnonzero(full) * spacing
        middle = float(positions.min() + positions.max()) / 2
        return cls(middle, max(float(np.ptp(positions)) / 2, spacing))

    def level(self, position: float) -> float:
        return (position - self.middle) / self.half


@dataclass(frozen=True)
class PositionRegressor:
    """Support slices in short, to slide a new volume along.

    descriptors: (T, D). levels: (T,). cases: (T,), the support case of each slice. half:
    millimetres from middle to end, mean of the cases.
    """

    descriptors: Tensor
    levels: Tensor
    cases: Tensor
    half: float

    def find(self, descriptors: Tensor, positions: Sequence[float], length: float) -> PositionScale:
        """The scale of a volume from some of its slices.

        descriptors: (P, D) of slices at `positions`, millimetres from the first slice; length:
        of the volume, millimetres.
        """
        likeness = descriptors.float() @ self.descriptors.float().T  # (P, T)
        # Some support slices look like everything: what counts is looking like them more than
        # the other slices do. Without this the error is 0.16 instead of 0.08 (left atrium).
        likeness = likeness - likeness.mean(dim=0)
        _, case = torch.unique(self.cases, return_inverse=True)
        of_case = torch.nn.functional.one_hot(case).float()  # (T, C)
        there = torch.tensor(positions, dtype=torch.float32, device=likeness.device)
        middles, halves = np.linspace(0, length, SHIFTS), self.half * HALVES
        shifted = there - torch.from_numpy(middles).to(there)[:, None]  # (SHIFTS, P)
        scores = []
        for half in halves:
            levels = shifted / float(half)
            distance = (levels[..., None] - self.levels.float()) / NEAR
            weight = torch.exp(-distance.square() / 2)
            total = weight @ of_case  # (SHIFTS, P, C)
            alike = (weight * likeness) @ of_case / total.clamp(min=1e-6)
            # Slices beyond what a case shows say nothing for or against.
            scores.append(torch.where(total > LEAST_WEIGHT, alike, 0.0).mean(dim=1))
        # What is expected, not the most similar: shifts that are about as alike can lie far apart,
        # and one of them is the most similar by chance (docs/decisions/0013).
        belief = (LIKEST * torch.stack(scores)).flatten().softmax(dim=0)
        of_scale = belief.view(len(halves), SHIFTS, -1).sum(dim=2).cpu().double().numpy()
        return PositionScale(
            float(of_scale.sum(axis=0) @ middles),
            float(np.exp(of_scale.sum(axis=1) @ np.log(halves))),
        )


@dataclass(frozen=True)
class PositionNoise:
    """How wrong slice positions are in a new volume: found = true * (1 + a) + b, where a has the
    deviation `scaling` and b has `shift`. The defaults are the least that is ever assumed."""

    shift: float = 0.1
    scaling: float = 0.08

    def disturbed(self, level: float, rng: np.random.Generator) -> float:
        """A true slice position as it may be found."""
        return float(level * rng.normal(1, self.scaling) + rng.normal(0, self.shift))

    @property
    def found_again(self) -> PositionNoise:
        """What is left of it once slice positions are found again: half, on prostates less."""
        return PositionNoise(self.shift / 2, self.scaling / 2)

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[PositionScale, PositionScale]]) -> PositionNoise:
        """From (found, true) scales of support cases, each found by the others.

        The median, since one case out of three may be found far off that three would find
        well (left atrium: 0.65 by two cases, 0.08 on new volumes by three).
        """
        shifts = [found.level(true.middle) for found, true in pairs]
        scalings = [true.half / found.half - 1 for found, true in pairs]
        return cls(_typical(shifts, cls.shift, 0.4), _typical(scalings, cls.scaling, 0.25))


def _typical(errors: Sequence[float], least: float, most: float) -> float:
    return float(np.clip(np.median(np.abs(errors)), least, most))
