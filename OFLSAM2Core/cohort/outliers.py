"""Volumes that are unlike the rest of the cohort."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FEWEST = 8
"""Fewest cases from which a usual volume can be estimated."""

_FAR = 3.5
"""Modified z-score from which on a value is an outlier: Iglewicz and Hoaglin 1993, "How to detect
and handle outliers"."""


def outliers(values: Sequence[float | None]) -> list[bool]:
    """Which values are far from the median, in deviations (by the median absolute deviation) of
    their logarithms: half and twice the usual volume are equally far.

    None and 0 (nothing was found) are never outliers: they are shown by themselves. All False
    where fewer than FEWEST values remain.
    """
    logs = np.array([math.log(value) if value else np.nan for value in values], np.float64)
    known = logs[~np.isnan(logs)]
    if len(known) < FEWEST:
        return [False] * len(logs)
    middle = float(np.median(known))
    deviations = np.abs(known - middle)
    # Where more than half are alike, the mean deviation stands in, as they propose.
    spread = 1.4826 * float(np.median(deviations)) or 1.2533 * float(np.mean(deviations))
    if spread == 0:
        return [False] * len(logs)
    with np.errstate(invalid="ignore"):
        far = np.abs(logs - middle) / spread > _FAR
    return [bool(one) for one in far]
