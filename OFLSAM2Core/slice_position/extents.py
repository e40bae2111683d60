"""Slice positions found again, from what was predicted.

How a volume's slices look says where its structures are, roughly: over fourteen prostates the
middle is off by 0.3 half heights, and the height by a fifth. What was then predicted begins and
ends much nearer to the truth (0.15), so slice positions are taken from it, and slices are predicted
once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, special

from OFLSAM2Core.slice_position.regression import PositionScale

LEAST_AREA = 0.15
"""Share of a structure's largest area below which it counts as not begun, or as ended."""

SMOOTH = 0.7
"""Slices, deviation of the Gaussian that areas are averaged by first."""

MOST_CHANGE = 2.0
"""A height that is so many times another is not trusted."""

LEAST_HEIGHT = 0.9
"""Share of the height until now that a new height has at least. Faint ends of a structure are not
predicted, and even less so at the slice positions of a lower one: parts of a hippocampus were lost
by that (docs/decisions/0013)."""


_NOT_SHOWN = -1e6


@dataclass(frozen=True)
class StructureExtents:
    """Slice positions at which each of N structures begins and ends, mean of the support cases.

    levels: (N, 2), NaN for an end that no case shows.
    """

    levels: npt.NDArray[np.float64]

    @property
    def stored(self) -> npt.NDArray[np.float64]:
        """`levels` for a file, which holds finite numbers only."""
        return np.nan_to_num(self.levels, nan=_NOT_SHOWN)

    @classmethod
    def from_stored(cls, levels: npt.NDArray[np.float64]) -> StructureExtents:
        """The inverse."""
        return cls(np.where(levels == _NOT_SHOWN, np.nan, levels))

    @classmethod
    def from_support(
        cls,
        areas: Sequence[npt.NDArray],
        spacings: Sequence[float],
        scales: Sequence[PositionScale],
    ) -> StructureExtents:
        """areas: of each case, (N, slices). spacings: mm between slices."""
        levels = np.full((len(areas), len(areas[0]), 2), np.nan)
        for case, (own, spacing, scale) in enumerate(zip(areas, spacings, scales, strict=True)):
            for structure, profile in enumerate(own):
                for end, index in _ends(profile):
                    levels[case, structure, end] = scale.level(index * spacing)
        return cls(np.ma.masked_invalid(levels).mean(axis=0).filled(np.nan))

    def scale(self, areas: npt.NDArray, spacing: float, found: PositionScale) -> PositionScale:
        """The scale by which predicted structures begin and end where they do in the support.

        areas: (N, slices), of what was predicted. found: the scale until now, which stays where too
        little was predicted to do better. It gets at most a tenth lower.
        """
        levels, positions = [], []
        for structure, profile in enumerate(areas):
            for end, index in _ends(profile):
                if not np.isnan(self.levels[structure, end]):
                    levels.append(self.levels[structure, end])
                    positions.append(index * spacing)
        if len(levels) < 2 or np.ptp(levels) < 0.5:
            return found
        half = float(np.polyfit(levels, positions, 1)[0])
        if not 1 / MOST_CHANGE < half / found.half < MOST_CHANGE:
            return found
        half = max(half, LEAST_HEIGHT * found.half)
        return PositionScale(float(np.mean(positions) - half * np.mean(levels)), half)

    def there(
        self, levels: npt.NDArray, deviation: float, beyond: float = 0.0, unknown: float = 0.0
    ) -> npt.NDArray[np.float64]:
        """How likely structures are in slices at `levels` (slices,), if they begin and end where
        they do in the support, or so many slice positions beyond, with a deviation of so many
        levels: (N, slices).

        unknown: how likely a structure has begun, or has not ended, if the support does not show
        where that is.
        """
        half_slice = np.abs(np.diff(levels)).mean() / 2 if len(levels) > 1 else 0.0
        first, last = self.levels[:, :1] - beyond, self.levels[:, 1:] + beyond
        begun = special.ndtr((levels - first + half_slice) / deviation)
        not_ended = special.ndtr((last - levels + half_slice) / deviation)
        return np.nan_to_num(begun, nan=unknown) * np.nan_to_num(not_ended, nan=unknown)


def _ends(profile: npt.NDArray) -> list[tuple[int, int]]:
    """(0, first slice) and (1, last slice) of a structure, by its areas (slices,). What reaches the
    first or last slice of the volume may go on beyond: that is no end."""
    if not profile.any():
        return []
    smooth = ndimage.gaussian_filter1d(profile.astype(float), SMOOTH, mode="nearest")
    there = np.flatnonzero(smooth > LEAST_AREA * smooth.max())
    last = len(profile) - 1
    return [(end, int(there[-end])) for end in (0, 1) if 0 < there[-end] < last]
