"""The Dice that is to be expected of what is predicted, if probabilities are true."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from probability_volumes import volume_of
from scipy import ndimage, special

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.postprocessing.confidence import TEMPERATURE


def _organ(peak: float, unsure: float = 2.0) -> npt.NDArray[np.float32]:
    """As likely as `peak` in the middle, less and less around it: (12, 40, 40).

    unsure: over how many pixels.
    """
    ball = np.zeros((12, 40, 40), np.float32)
    ball[4:8, 12:28, 12:28] = 1
    blurred = ndimage.gaussian_filter(ball, (0, unsure, unsure))
    return peak * blurred / blurred.max()


@pytest.mark.parametrize("peak", [0.55, 0.75, 0.95])
def test_it_is_the_mean_dice_of_labels_drawn_from_the_probabilities(peak: float) -> None:
    probabilities = _organ(peak)
    true = special.expit(special.logit(probabilities.clip(1e-6, 1 - 1e-6)) / TEMPERATURE)
    true[probabilities < 0.05] = 0
    rng = np.random.default_rng(0)
    found = [dice(rng.random(true.shape) < true, probabilities >= 0.5) for _ in range(40)]
    assert volume_of(probabilities).expected_dice()[0] == pytest.approx(np.mean(found), abs=0.02)


def test_it_falls_as_borders_become_unsure_and_is_nothing_where_nothing_is_predicted() -> None:
    organs = [_organ(0.99, unsure) for unsure in (0.5, 2.0, 5.0)]
    expected = volume_of(*organs, _organ(0.3)).expected_dice()
    assert expected[0] > expected[1] > expected[2] > expected[3] == 0
