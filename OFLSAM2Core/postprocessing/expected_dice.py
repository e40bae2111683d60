"""The Dice to be expected of a structure, if its probabilities are true.

Lipton, Elkan and Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure"
(F1 is Dice).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from OFLSAM2Core.postprocessing.confidence import FAINT, TEMPERATURE

HALF = 128
"""The first of 256 steps of probability at which a voxel counts as the structure's."""


def expected_dice(counts: npt.NDArray[np.int64]) -> float:
    """The expected Dice of a structure that is predicted from one half on; 0 where nothing is.

    counts: voxels of a volume by the structure's probability, in 256 equal steps, (256,).
    Probabilities are trusted by the temperature that confidence is shown with.
    """
    probabilities = (np.arange(2 * HALF) + 0.5) / (2 * HALF)
    trusted = special.expit(special.logit(probabilities) / TEMPERATURE)
    trusted[probabilities < FAINT] = 0
    right = counts * trusted
    predicted = counts[HALF:].sum()
    return float(2 * right[HALF:].sum() / max(predicted + right.sum(), 1))
