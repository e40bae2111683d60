"""How much the prior counts beside the prediction, by how good both are expected to be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume

TRUSTED = 2.0
"""Weight of the prior where both are expected to be equally good
(docs/experiments/atlas-prior.md)."""

MOST = 0.85
"""The largest share of the prior."""

UNTRIED = 0.7
"""Dice expected of the prior of a single support case, to which no other was registered."""


def prior_weights(
    predicted: ProbabilityVolume, prior: ProbabilityVolume, dice: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share of the prior of each structure, (N,) in [0, MOST].

    The prior's expected Dice in this volume says how well the atlases agree once they are
    registered to it; dice, the Dice of each structure by leave-one-out, (N,), how well that
    went among the support cases (NaN where there is a single one). The geometric mean of the odds
    of both is compared with the odds of the prediction's expected Dice.
    """
    expected = np.where(
        np.isnan(dice), _odds(UNTRIED), np.sqrt(_odds(dice) * _odds(prior.expected_dice()))
    )
    weights = TRUSTED * expected / _odds(predicted.expected_dice())
    return np.minimum(weights / (1 + weights), MOST)


def weighted_mean(
    predicted: ProbabilityVolume, prior: ProbabilityVolume, weight: npt.NDArray[np.float64]
) -> ProbabilityVolume:
    """The mean of both probabilities. weight: of the prior of each structure, (N,) in [0, 1]."""
    own = torch.from_numpy(weight).float()[:, None, None]
    cpu = torch.device("cpu")
    return ProbabilityVolume.of_slices(
        (
            torch.lerp(predicted.slice(index, cpu), prior.slice(index, cpu), own)
            for index in range(predicted.count)
        ),
        predicted.count,
    )


def _odds(dice: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    likely = np.clip(dice, 0.02, 0.98)
    return likely / (1 - likely)
