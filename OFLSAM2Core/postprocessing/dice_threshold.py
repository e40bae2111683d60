"""From which probability on a structure is predicted: where the Dice to be expected is best.

Drawing what is more probable than not makes the fewest wrong voxels, but not the best Dice: where
it is unsure which voxels a structure has, few are more probable than not, and a gland or an
esophagus came out at a third of its volume, or not at all. If probabilities are true, Dice is
expected to be best when all is predicted that is more probable than half of that best Dice (Lipton,
Elkan and Naryanaswamy 2014, "Optimal thresholding of classifiers to maximize F1 measure"; F1 is
Dice). So a structure that is unsure is predicted from less than one half on (docs/decisions/0016).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special
from torch import Tensor

from OFLSAM2Core.postprocessing.confidence import FAINT, TEMPERATURE

HALF = 128
"""Of 256 steps of probability."""

LEAST = 51
"""Steps; 0.2. What is less likely is never predicted: of a structure that is not there, nothing is
sure either."""

SURE = 102
"""Steps; 0.4, half of a Dice of 0.8. Where better is to be expected there is little to gain, and
one half stays: what is wrong there is trusted, and predicting more adds to it."""


def dice_optimal_threshold(counts: npt.NDArray[np.int64]) -> int:
    """The first step that is to be predicted: from `LEAST` to `SURE`, or `HALF`.

    counts: voxels of a volume by one structure's probability, in 256 equal steps, (256,).
    Probabilities are trusted by the temperature that confidence is shown with before registration.
    """
    expected = _expected(counts)
    # Of several that predict the same, the last: one half where nothing is predicted.
    best = HALF - int(expected[LEAST : HALF + 1][::-1].argmax())
    return best if best <= SURE else HALF


def expected_dice(counts: npt.NDArray[np.int64]) -> float:
    """Of a structure that is predicted from one half on; counts: as above. 0 where nothing is
    predicted."""
    return float(_expected(counts)[HALF])


def moved_to_half(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Probabilities by logits moved so that those at `thresholds` are one half; both (N, H, W)."""
    there, not_there = probabilities * (1 - thresholds), (1 - probabilities) * thresholds
    return there / (there + not_there)


def _expected(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The Dice to be expected of what is predicted from each step on, (256,)."""
    probabilities = (np.arange(2 * HALF) + 0.5) / (2 * HALF)
    believed = special.expit(special.logit(probabilities) / TEMPERATURE)
    believed[probabilities < FAINT] = 0
    drawn = _from_here_on(counts)
    right = _from_here_on(counts * believed)
    return 2 * right / np.maximum(drawn + right[0], 1)


def _from_here_on(values: npt.NDArray) -> npt.NDArray:
    """The sum of each and all that follow."""
    return np.cumsum(values[::-1])[::-1]
