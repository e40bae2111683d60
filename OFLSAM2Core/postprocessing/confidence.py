"""S_cf, the confidence of a slice and structure, and how structures share the voxels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

from OFLSAM2Core.slice_position.extents import StructureExtents

FAINT = 0.05
"""Probability below which a pixel is not counted for a structure."""

ENDS = 0.3
"""Standard deviation of where a structure ends: from the end of what was predicted, in half
heights, and from the end that the support shows, in slice positions."""

BEYOND, BEYOND_DEVIATION = 0.3, 0.2
"""How far a predicted structure may go beyond its end in the support, in slice positions, and the
standard deviation of that. ENDS and these two: docs/decisions/0009-confidence.md."""

MOSTLY = 0.5
"""Atlas prior from which on a structure counts as present in a slice."""

TEMPERATURE = 1.5
"""Temperature of the confidence that is shown: the segmentation head is trained on the support, and
too confident on new volumes. Calibration error near the structures, prostate (8 volumes), left
atrium (4), hippocampus (8) and heart (8): 0.041, 0.020, 0.010, 0.023 without; 0.029, 0.005, 0.003,
0.004 with 1.5; 0.013, 0.014, 0.019, 0.032 with 2."""

WITH_REGISTRATION = 1.2
"""The same where the atlas prior was used, which lowers the probabilities already.
Calibration error, left atrium (4), hippocampus (17), heart (34), head and neck (3) and prostate
(14): 0.010, 0.006, 0.028, 0.007, 0.024; with 1.5 0.023, 0.015, 0.057, 0.021, 0.012; with 1 0.003,
0.002, 0.010, 0.001, 0.033, where the confidence of prostates is too high."""


def slice_confidence(shares: Tensor) -> Tensor:
    """S_cf of structures, without a label: (N,).

    shares: how likely each voxel is what, (N + 1, H, W), background first
    (`soft_label_competition`); what is largest is predicted.

    This is the Dice to be expected if every probability is true: twice the mass inside the
    predicted mask over the mask's size plus all mass. High probabilities in a compact mask give 1,
    lower ones at the boundary a little less, a faint blob nearly 0. For a structure that is
    predicted nowhere it is 1 minus the structure's highest probability in the slice, so it is high
    where a slice is clearly empty and low where a structure was missed.
    """
    maps = shares[1:].flatten(1)
    structures = torch.arange(1, len(shares), device=shares.device)
    inside = (shares.flatten(1).argmax(dim=0) == structures[:, None]).to(maps.dtype)
    size = inside.sum(dim=1)
    mass = torch.where(maps > FAINT, maps, torch.zeros_like(maps)).sum(dim=1)
    expected = 2 * (maps * inside).sum(dim=1) / (size + mass).clamp(min=1e-6)
    return torch.where(size > 0, expected, 1 - maps.amax(dim=1))


def extent_confidence(
    areas: npt.NDArray, positions: npt.NDArray, extents: StructureExtents
) -> npt.NDArray[np.float64]:
    """The confidence (N, slices) that a structure is in the slices in which it was predicted and in
    no other, by where it begins and ends. S_cf is multiplied by it once all slices are known.

    areas: pixels that were predicted, (N, slices). positions: slice positions, (slices,). extents:
    where structures begin and end in the support.

    A network is as confident of the first empty slice beyond a structure as of any other empty
    slice, yet structures are missed there. A structure ends around where it was predicted to end,
    with a standard deviation of ENDS. Where the support says that it has not ended yet, the
    confidence in an empty slice is no higher than that. A structure that was predicted nowhere, or
    not between two slices that show it, has a confidence of 0.5. A predicted structure has a lower
    confidence where it ended long before in the support.
    """
    predicted = extents.there(positions, BEYOND_DEVIATION, BEYOND, unknown=1.0)
    not_expected = 1 - extents.there(positions, ENDS)
    return np.where(areas > 0, predicted, np.minimum(_ended(areas), not_expected))


def atlas_agreement(areas: npt.NDArray, prior: npt.NDArray) -> npt.NDArray[np.float64]:
    """The confidence (N, slices) that the atlas prior gives to what was predicted; S_cf is
    multiplied by it once all slices are known.

    areas: pixels that were predicted, (N, slices). prior: its highest probability of each structure
    in each slice, (N, slices).

    Where the prior of a structure is low everywhere in a slice, the confidence falls in proportion.
    Where it is high, it says nothing about how well the structure was predicted.
    """
    return np.where(areas > 0, np.minimum(prior / MOSTLY, 1.0), 1.0)


def _ended(areas: npt.NDArray) -> npt.NDArray[np.float64]:
    """The probability that structures have ended, by the distance from what was predicted."""
    ended = np.ones(areas.shape)
    at = np.arange(areas.shape[1])
    for own, found in zip(ended, areas > 0, strict=True):
        own[~found] = 0.5
        if found.any():
            first, last = np.flatnonzero(found)[[0, -1]] + (-0.5, 0.5)
            beyond = np.maximum(first - at, at - last)
            outside = beyond > 0
            own[outside] = special.ndtr(beyond[outside] / (ENDS * (last - first) / 2))
    return ended


def soft_label_competition(probabilities: Tensor) -> Tensor:
    """One distribution per voxel from each structure's own probability.

    probabilities: (N, H, W), each structure against all else. Returns (N + 1, H, W), background
    first, summing to 1: as the soft aggregation of RGMP (Oh et al. 2018), background = the product
    of (1 - p), but then divided by the sum, without a softmax over the logits. The predicted label
    is the same; but the softmax turns 0.95 against 0.05 into 0.997, and a third of the wrong voxels
    of a hippocampus had a confidence near 1. With one structure nothing changes.
    """
    background = (1 - probabilities).prod(dim=0, keepdim=True)
    every = torch.cat([background, probabilities])
    return every / every.sum(dim=0).clamp(min=1e-6)


def calibrated(shares: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """`soft_label_competition`, (N + 1, H, W), by a temperature: what is largest stays so."""
    softer = shares.clamp(min=1e-4) ** (1 / temperature)
    return softer / softer.sum(dim=0)
