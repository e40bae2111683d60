"""S_cf, the confidence of a slice and structure, and how structures share the voxels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

from OFLSAM2Core.slice_position.extents import StructureExtents

FAINT = 0.05
"""Probability mass below which a pixel says nothing about a structure."""

ENDS = 0.3
"""How uncertain the end of a structure is that was not predicted, as a standard deviation: of where
it ends from where it was seen to, in half heights, and of where it is expected from where the
support shows it, in slice positions."""

BEYOND, BEYOND_DEVIATION = 0.3, 0.2
"""How many slice positions farther than in the support a structure that was predicted may well go,
and the deviation of that. These three: docs/decisions/0009-confidence.md."""

MOSTLY = 0.5
"""Probability by the support cases from which on a structure is in a slice."""

TEMPERATURE = 1.5
"""Temperature of what is shown as confidence: the segmentation head has learned to be as sure as it
may be of its support cases. Calibration error near the structures, prostate (8 volumes), left
atrium (4), hippocampus (8) and heart (8): 0.041, 0.020, 0.010, 0.023 without; 0.029, 0.005, 0.003,
0.004 with 1.5; 0.013, 0.014, 0.019, 0.032 with 2."""

WITH_REGISTRATION = 1.2
"""The same, once the atlas prior was used: the mean with the atlas prior is less sure.
Calibration error, left atrium (4), hippocampus (17), heart (34), head and neck (3) and prostate
(14): 0.010, 0.006, 0.028, 0.007, 0.024; with 1.5 0.023, 0.015, 0.057, 0.021, 0.012; with 1 0.003,
0.002, 0.010, 0.001, 0.033, and prostates too sure."""


def slice_confidence(shares: Tensor) -> Tensor:
    """S_cf of structures, without a label: (N,).

    shares: how likely each voxel is what, (N + 1, H, W), background first
    (`soft_label_competition`); what is largest is predicted.

    The Dice that is to be expected if every probability is true: twice the mass inside the
    predicted mask over the mask's size plus all mass. Sure and compact gives 1, hesitation at
    the boundary a little less, a faint blob near 0. A structure that is predicted nowhere has
    the confidence that there is none: 1 less what comes closest to being predicted in the slice, so
    a clearly empty slice is trusted and a missed structure is not.
    """
    maps = shares[1:].flatten(1)
    structures = torch.arange(1, len(shares), device=shares.device)
    inside = (shares.flatten(1).argmax(dim=0) == structures[:, None]).to(maps.dtype)
    size = inside.sum(dim=1)
    mass = torch.where(maps > FAINT, maps, torch.zeros_like(maps)).sum(dim=1)
    expected = 2 * (maps * inside).sum(dim=1) / (size + mass).clamp(min=1e-6)
    return torch.where(size > 0, expected, 1 - maps.amax(dim=1))


def extent_confidence(
    areas: npt.NDArray, levels: npt.NDArray, extents: StructureExtents
) -> npt.NDArray[np.float64]:
    """How sure it is that structures are where they were predicted and are not where they were not,
    by where they begin and end; S_cf is multiplied by it once all slices are known: (N, slices).

    areas: pixels that were predicted, (N, slices). levels: of the slices, (slices,). extents: where
    structures begin and end in the support.

    A network is as sure of the slice behind the last one that it predicted as of any other empty
    one, and there structures are missed. They end somewhere around where they seem to, with a
    deviation of ENDS; and if the others show that they should not have ended yet, it is no surer
    than that. A structure that was predicted nowhere, or not in between, may as well be there as
    not. What was predicted is trusted less where the support's have long ended.
    """
    predicted = extents.there(levels, BEYOND_DEVIATION, BEYOND, unknown=1.0)
    not_expected = 1 - extents.there(levels, ENDS)
    return np.where(areas > 0, predicted, np.minimum(_surely_ended(areas), not_expected))


def atlas_agreement(areas: npt.NDArray, prior: npt.NDArray) -> npt.NDArray[np.float64]:
    """How sure structures are where they were predicted, by the prior; S_cf is multiplied by it
    once all slices are known: (N, slices).

    areas: pixels that were predicted, (N, slices). prior: its highest probability of each structure
    in each slice, (N, slices).

    Where the cases mostly say that a structure is nowhere in a slice, what was predicted there is
    trusted less in proportion. They say nothing about how well it was predicted where they agree.
    """
    return np.where(areas > 0, np.minimum(prior / MOSTLY, 1.0), 1.0)


def _surely_ended(areas: npt.NDArray) -> npt.NDArray[np.float64]:
    """How sure it is that structures have ended, by the distance from what was predicted."""
    sure = np.ones(areas.shape)
    at = np.arange(areas.shape[1])
    for own, found in zip(sure, areas > 0, strict=True):
        own[~found] = 0.5
        if found.any():
            first, last = np.flatnonzero(found)[[0, -1]] + (-0.5, 0.5)
            beyond = np.maximum(first - at, at - last)
            outside = beyond > 0
            own[outside] = special.ndtr(beyond[outside] / (ENDS * (last - first) / 2))
    return sure


def soft_label_competition(probabilities: Tensor) -> Tensor:
    """One distribution per voxel from each structure's own probability.

    probabilities: (N, H, W), each structure against all else. Returns (N + 1, H, W), background
    first, summing to 1: as the soft aggregation of RGMP (Oh et al. 2018), background = the product
    of (1 - p), but then divided by the sum and not a softmax over the logits. What is largest is
    the same; the softmax makes 0.95 against 0.05 a certainty of 0.997, and a third of the wrong
    voxels of a hippocampus were shown as sure. One structure is left as it is.
    """
    background = (1 - probabilities).prod(dim=0, keepdim=True)
    every = torch.cat([background, probabilities])
    return every / every.sum(dim=0).clamp(min=1e-6)


def calibrated(shares: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """`soft_label_competition`, (N + 1, H, W), by a temperature: what is largest stays so."""
    softer = shares.clamp(min=1e-4) ** (1 / temperature)
    return softer / softer.sum(dim=0)
