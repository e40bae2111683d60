"""Probabilities of structures in a whole volume, as tests make them up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume


def volume_of(*structures: npt.NDArray) -> ProbabilityVolume:
    """structures: of each the probabilities, (slices, rows, columns)."""
    slices = np.stack(structures, axis=1)
    return ProbabilityVolume.of_slices((torch.from_numpy(each) for each in slices), len(slices))
