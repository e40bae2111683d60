"""Are the grey values of volumes on one scale? CT has an absolute one, and what was learned from it
means nothing on another: scaled to [0, 1], say, or without the intercept of its header."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.preprocessing.intensity_mapping import ct_offset, intensity_sample

_log = logging.getLogger(__name__)

# Whole numbers of an image of a scanner are more.
_FEW_VALUES = 8

# Hounsfield units of a CT that was cropped to tissue: fat is below water, most is not air, and
# values are spread between fat and bone.
_FAT = 0.0
_TISSUE = (-700.0, 700.0)
_SPREAD = (60.0, 6000.0)


@dataclass(frozen=True)
class IntensityRange:
    """Grey values of a volume: percentiles 1, 50 and 99.

    ct_offset: what is to be subtracted to get Hounsfield units; None: it does not look like CT.
    """

    low: float
    median: float
    high: float
    ct_offset: float | None

    @classmethod
    def of(cls, volume: Volume) -> IntensityRange:
        """The range of a volume that is no sequence."""
        sample = intensity_sample(volume.array)
        low, median, high = (float(value) for value in np.percentile(sample, (1, 50, 99)))
        return cls(low, median, high, ct_offset(volume.array))

    @property
    def scale(self) -> str:
        """CT numbers are shifted by 1000 or 1024, which makes no difference here."""
        if self.ct_offset is None:
            return "arbitrary"
        return "Hounsfield" if self.ct_offset == 0 else "shifted Hounsfield"

    @property
    def described(self) -> str:
        """For messages: "-1000 to 320, as CT in Hounsfield units has"."""
        numbers = f"{self.low:.4g} to {self.high:.4g}"
        if self.ct_offset is None:
            return f"{numbers} (no CT in Hounsfield units)"
        if self.ct_offset == 0:
            return f"{numbers} (CT in Hounsfield units)"
        return f"{numbers} (CT, Hounsfield units + {self.ct_offset:g})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> IntensityRange:
        """Raises KeyError, TypeError or ValueError."""
        offset = data["ct_offset"]
        low, median, high = (float(data[key]) for key in ("low", "median", "high"))
        if not np.isfinite([low, median, high, offset or 0.0]).all():
            raise ValueError(f"{data} is no range of grey values")
        return cls(low, median, high, None if offset is None else float(offset))


def support_ranges(cases: Sequence[SupportCase]) -> tuple[IntensityRange, ...]:
    """The range of each case; () for sequences. Warns where the cases are not on one scale, or one
    has a single value."""
    if any(case.volume.is_sequence for case in cases):
        return ()
    for case in cases:
        _say_if_no_image(case.volume)
    ranges = tuple(IntensityRange.of(case.volume) for case in cases)
    for number, one in enumerate(ranges[1:], start=1):
        if one.scale != ranges[0].scale:
            _log.warning(
                "The support volumes have unlike grey values: '%s' %s, '%s' %s. Learn from volumes "
                "of one modality and scale.",
                cases[0].name,
                ranges[0].described,
                cases[number].name,
                one.described,
            )
            break
    return ranges


def compare_with_support(volume: Volume, support: Sequence[IntensityRange]) -> None:
    """Warn where a volume's grey values are not on the scale of the support's, or all the same."""
    if volume.is_sequence:
        return
    _say_if_no_image(volume)
    if not support:
        return
    scales = {one.scale for one in support}
    own = IntensityRange.of(volume)
    if len(scales) > 1 or own.scale in scales:
        return
    low, high = min(one.low for one in support), max(one.high for one in support)
    if own.scale == "arbitrary" and _may_be_cropped_ct(own, support[0]):
        return
    _log.warning(
        "The grey values of '%s' are not those of the support volumes: %s; support %s. What was "
        "learned may not hold: give it on the scale of the support.",
        volume.name,
        own.described,
        IntensityRange(low, 0.0, high, support[0].ct_offset).described,
    )


def _say_if_no_image(volume: Volume) -> None:
    """Warn of a single value, and of so few that a segmentation may have been given."""
    array = volume.array
    first = array.flat[0]
    if all((plane == first).all() for plane in array):
        _log.warning(
            "Every voxel of '%s' has the value %g: there is nothing to be seen in it.",
            volume.name,
            first,
        )
        return
    values: set[float] = set()
    for plane in array:
        values.update(np.unique(plane).tolist())
        if len(values) > _FEW_VALUES:
            return
    if all(float(value).is_integer() for value in values):
        _log.warning(
            "'%s' has no more than %d different values, as a segmentation has. Make sure that it "
            "is an image.",
            volume.name,
            len(values),
        )


def _may_be_cropped_ct(own: IntensityRange, support: IntensityRange) -> bool:
    """Whether a volume that shows no air may be a CT on the scale of the support."""
    if support.ct_offset is None:
        return False
    low, median, high = (value - support.ct_offset for value in (own.low, own.median, own.high))
    return low < _FAT and _TISSUE[0] < median < _TISSUE[1] and _SPREAD[0] < high - low < _SPREAD[1]
