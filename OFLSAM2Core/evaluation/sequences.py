"""Sequences of frames: some are learned from, the others are segmented and measured as DAVIS does.

J, region similarity, is the intersection over the union of a frame's masks; F, boundary accuracy,
the F-measure of their contours, of which points count as met within 0.8 % of the frame's diagonal
(Perazzi et al., CVPR 2016). Both are means over frames. A structure that is in neither mask of a
frame counts 1, as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from OFLSAM2Core.data.overlap import Mask, as_masks
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.counted import counted

TOLERANCE = 0.008
"""Share of a frame's diagonal by which a boundary may be off and still counts as found."""


@dataclass(frozen=True)
class FrameAgreement:
    """How well one structure agrees with the reference, 0 to 1, means over frames."""

    region: float
    boundary: float


def split_sequence(case: SupportCase, percent: float) -> tuple[SupportCase, SupportCase]:
    """(frames to learn from, all others): so many percent of the frames, at least one, evenly, the
    first one among them. Raises InputError where no frame would be left."""
    count = len(case.labels)
    wanted = max(1, round(percent / 100 * count))
    if wanted >= count:
        raise InputError(
            f"{percent:g} % of the {counted(count, 'frame')} of '{case.name}' leave none to "
            f"segment.",
            "Learn from fewer frames.",
        )
    chosen = np.zeros(count, bool)
    chosen[np.floor(np.arange(wanted) * count / wanted).astype(int)] = True
    return _frames(case, chosen), _frames(case, ~chosen)


def frame_agreement(truth: npt.NDArray, prediction: npt.NDArray) -> FrameAgreement:
    """Two stacks of masks (T, H, W)."""
    truth, prediction = as_masks(truth, prediction)
    pairs = list(zip(truth, prediction, strict=True))
    return FrameAgreement(
        float(np.mean([region_similarity(*pair) for pair in pairs])),
        float(np.mean([boundary_accuracy(*pair) for pair in pairs])),
    )


def region_similarity(truth: Mask, prediction: Mask) -> float:
    """J of one frame, (H, W)."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_accuracy(truth: Mask, prediction: Mask) -> float:
    """F of one frame, (H, W)."""
    reach = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    one, other = _contour(truth), _contour(prediction)
    if not one.any() and not other.any():
        return 1.0
    if not one.any() or not other.any():
        return 0.0
    recall = float((ndimage.distance_transform_edt(~other)[one] <= reach).mean())
    precision = float((ndimage.distance_transform_edt(~one)[other] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _contour(mask: Mask) -> Mask:
    """Pixels of the mask beside one that is not of it; the frame's border bounds nothing."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def _frames(case: SupportCase, chosen: Mask) -> SupportCase:
    volume = replace(case.volume, array=case.volume.array[chosen])
    return SupportCase(volume, case.labels[chosen], case.structures)
