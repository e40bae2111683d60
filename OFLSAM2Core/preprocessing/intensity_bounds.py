"""In which bounds volumes without an absolute scale (MR) are scaled by their own percentiles.

By a high percentile of all its voxels, a volume is the darker the brighter fat beside a coil, a
scar or a vessel is elsewhere: blood in left atria had 0.42 to 0.83 of white, in hearts 0.22 to
0.63, and those darker than the support tend to be segmented worse (docs/decisions/0020). Near the
structures there is less of that. So bright parts there are shown at least as bright as in the
darkest support case, and at most as in the brightest; the support cases are shown as they come. In
other sets, prostates, how bright it is there tells less than the whole volume does, and nothing is
bounded: the support shows which it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.preprocessing.intensity_mapping import (
    IntensityMapping,
    bounded,
    roi_contrast_ratio,
)
from OFLSAM2Core.preprocessing.letterbox import Letterbox

if TYPE_CHECKING:
    from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume

logger = logging.getLogger(__name__)

ROOM = 0.2
"""Around the structures' place, of its sides: it is not the same in every patient."""

DARKEST = 0.01
"""Grey value that all darker structures count as."""

ALIKE = 2 / 3
"""Bounds are used where equal brightness near structures leaves at most this share of how much the
structures' grey values differ between support cases."""

Place = tuple[float, ...]
"""Upper edge, lower, left and right, in pixels of the network's image of whole slices: 0 is the
upper edge of the first. May reach beyond the image."""


@dataclass(frozen=True)
class RoiIntensityBounds:
    """The bounds, learned from the support; see `intensity.bounded`.

    ratios: the least and the most of the support cases' `intensity.roi_contrast_ratio`.
    place: where structures are, with room around.
    """

    ratios: tuple[float, float]
    place: Place

    @classmethod
    def learn(
        cls, prepared: Sequence[PreprocessedVolume], labels: Sequence[npt.NDArray]
    ) -> RoiIntensityBounds | None:
        """From the support cases, as they are shown without bounds.

        labels: of each case, canonical slices (S, H, W), 0 where nothing is. None where structures
        would not be much more alike were all cases equally bright there, and where there is one
        case only.
        """
        place = _place_of([case.framing for case in prepared], labels)
        if place is None:
            return None
        curves = [case.curve for case in prepared]
        nears = [_near(place, case.stack, case.framing) for case in prepared]
        ratios = [roi_contrast_ratio(*each) for each in zip(curves, nears, strict=True)]
        known = [ratio for ratio in ratios if ratio is not None]
        if not known:
            return None
        least, most = min(known), max(known)
        alike = [bounded(*each, (most, most)) for each in zip(curves, nears, strict=True)]
        means = [_means(case.stack, own) for case, own in zip(prepared, labels, strict=True)]
        if _spread(means, alike) >= ALIKE * _spread(means, curves):
            return None
        logger.info(
            "how bright volumes are shown is bounded by how bright they are near structures"
        )
        return cls((least, most), place)

    def bound(
        self, curve: IntensityMapping, stack: npt.NDArray, framing: Letterbox
    ) -> IntensityMapping:
        """A volume's own curve within the bounds.

        stack: canonical slices (S, H, W), shown as `framing` says.
        """
        return bounded(curve, _near(self.place, stack, framing), self.ratios)


def _near(place: Place, stack: npt.NDArray, framing: Letterbox) -> npt.NDArray:
    upper, lower, left, right = place
    top, first = framing.point_on_slice(upper, left)
    bottom, last = framing.point_on_slice(lower, right)
    rows, columns = (
        slice(max(round(start), 0), max(round(stop), 0))
        for start, stop in ((top, bottom), (first, last))
    )
    return stack[:, rows, columns]


def _means(stack: npt.NDArray, labels: npt.NDArray) -> dict[int, float]:
    """Mean intensity of each structure."""
    return {
        int(label): float(stack[labels == label].mean()) for label in np.unique(labels[labels > 0])
    }


def _spread(means: Sequence[dict[int, float]], curves: Sequence[IntensityMapping]) -> float:
    """Standard deviation of the logarithm of structures' grey values between cases, their mean."""
    greys: dict[int, list[float]] = {}
    for of_case, ((black, white), _) in zip(means, curves, strict=True):
        for label, mean in of_case.items():
            grey = (mean - black) / (white - black)
            greys.setdefault(label, []).append(np.log(max(grey, DARKEST)))
    deviations = [np.std(of_cases) for of_cases in greys.values() if len(of_cases) > 1]
    return float(np.mean(deviations)) if deviations else 0.0


def _place_of(framings: Sequence[Letterbox], labels: Sequence[npt.NDArray]) -> Place | None:
    """Around the structures of all support cases, with room; None where there are none."""
    places = [
        _place(own, framing) for own, framing in zip(labels, framings, strict=True) if own.any()
    ]
    if not places:
        return None
    upper, lower, left, right = np.array(places).T
    rows = ROOM * (lower.max() - upper.min())
    columns = ROOM * (right.max() - left.min())
    return (
        float(upper.min() - rows),
        float(lower.max() + rows),
        float(left.min() - columns),
        float(right.max() + columns),
    )


def _place(labels: npt.NDArray, framing: Letterbox) -> Place:
    rows, columns = bounding_box(np.asarray((labels > 0).any(axis=0)))
    (top, bottom, _), (left, right, _) = (
        each.indices(side) for each, side in zip((rows, columns), labels.shape[1:], strict=True)
    )
    upper, first = framing.point_in_network(top, left)
    lower, last = framing.point_in_network(bottom, right)
    return upper, lower, first, last
