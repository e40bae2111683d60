"""Slice positions refined by what was predicted.

The first estimate of where a volume's structures lie is rough: over fourteen prostates the middle
is off by 0.3 half heights, and the height by a fifth. The first prediction begins and ends much
nearer to the truth (0.15), so slice positions are computed from it, and slices are predicted once
more.
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
"""Standard deviation, in slices, of the Gaussian that smooths areas first."""

MOST_CHANGE = 2.0
"""A height that is more than so many times the one until now, or less than its inverse, is not
trusted."""

LEAST_HEIGHT = 0.9
"""A new height is at least this share of the height until now. Faint ends of a structure are not
predicted, and even less so at the slice positions of a lower structure: parts of a hippocampus were
lost by that (docs/decisions/0013)."""

# Stands in files for an end that no case shows.
_NOT_SHOWN = -1e6


@dataclass(frozen=True)
class StructureExtents:
    """Slice positions at which each of N structures begins and ends, mean of the support cases.

    ends: (N, 2), NaN for an end that no case shows.
    """

    ends: npt.NDArray[np.float64]

    @property
    def stored(self) -> npt.NDArray[np.float64]:
        """`ends` for a file, which holds finite numbers only."""
        return np.nan_to_num(self.ends, nan=_NOT_SHOWN)

    @classmethod
    def from_stored(cls, ends: npt.NDArray[np.float64]) -> StructureExtents:
        """The inverse."""
        return cls(np.where(ends == _NOT_SHOWN, np.nan, ends))

    @classmethod
    def from_support(
        cls,
        areas: Sequence[npt.NDArray],
        spacings: Sequence[float],
        scales: Sequence[PositionScale],
    ) -> StructureExtents:
        """areas: of each case, (N, slices). spacings: mm between slices."""
        ends = np.full((len(areas), len(areas[0]), 2), np.nan)
        for case, (own, spacing, scale) in enumerate(zip(areas, spacings, scales, strict=True)):
            for structure, profile in enumerate(own):
                for end, index in _ends(profile):
                    ends[case, structure, end] = scale.slice_position(index * spacing)
        return cls(np.ma.masked_invalid(ends).mean(axis=0).filled(np.nan))

    def scale(self, areas: npt.NDArray, spacing: float, found: PositionScale) -> PositionScale:
        """The scale by which predicted structures begin and end where they do in the support.

        areas: (N, slices), of what was predicted. found: the scale until now, which is returned
        where too little was predicted to improve it. The height shrinks by a tenth at most.
        """
        in_support, positions = [], []
        for structure, profile in enumerate(areas):
            for end, index in _ends(profile):
                if not np.isnan(self.ends[structure, end]):
                    in_support.append(self.ends[structure, end])
                    positions.append(index * spacing)
        if len(in_support) < 2 or np.ptp(in_support) < 0.5:
            return found
        half = float(np.polyfit(in_support, positions, 1)[0])
        if not 1 / MOST_CHANGE < half / found.half < MOST_CHANGE:
            return found
        half = max(half, LEAST_HEIGHT * found.half)
        return PositionScale(float(np.mean(positions) - half * np.mean(in_support)), half)

    def there(
        self, positions: npt.NDArray, deviation: float, beyond: float = 0.0, unknown: float = 0.0
    ) -> npt.NDArray[np.float64]:
        """The probability that each structure is in slices at these positions (slices,), if it
        begins and ends where it does in the support: (N, slices).

        deviation: standard deviation of where a structure begins and ends. beyond: how far beyond
        the support's ends it may go. Both in slice positions. unknown: the probability that a
        structure has begun, or has not ended, where the support does not show its end.
        """
        half_slice = np.abs(np.diff(positions)).mean() / 2 if len(positions) > 1 else 0.0
        first, last = self.ends[:, :1] - beyond, self.ends[:, 1:] + beyond
        begun = special.ndtr((positions - first + half_slice) / deviation)
        not_ended = special.ndtr((last - positions + half_slice) / deviation)
        return np.nan_to_num(begun, nan=unknown) * np.nan_to_num(not_ended, nan=unknown)


def _ends(profile: npt.NDArray) -> list[tuple[int, int]]:
    """(0, first slice) and (1, last slice) of a structure, by its areas (slices,). A structure that
    reaches the first or last slice of the volume may go on beyond, so that end is left out."""
    if not profile.any():
        return []
    smooth = ndimage.gaussian_filter1d(profile.astype(float), SMOOTH, mode="nearest")
    there = np.flatnonzero(smooth > LEAST_AREA * smooth.max())
    last = len(profile) - 1
    return [(end, int(there[-end])) for end in (0, 1) if 0 < there[-end] < last]
