"""A volume segmented from beginning to end, for tests of what comes out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession


def segmented(session: FewShotSession, task: LearnedTask, case: SupportCase) -> npt.NDArray:
    """Labels and confidence of the last revision: (2, *shape)."""
    found = np.zeros((2, *case.labels.shape), np.uint8)
    for result in session.segment(case.volume, task):
        found[(0, *result.index_expression)], found[(1, *result.index_expression)] = (
            result.labels,
            result.confidence,
        )
    return found
