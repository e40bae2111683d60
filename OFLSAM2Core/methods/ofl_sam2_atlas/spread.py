"""Errors of corrected slices, applied to the slices beside them: what was wrong in one is wrong
likewise in the next, and less and less so farther away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.corrected import Corrected
from OFLSAM2Core.methods.ofl_sam2_atlas.fuse import Fused
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume, as_bytes
from OFLSAM2Core.preprocessing.letterbox import Box


def errors_of(
    volume: ProbabilityVolume,
    first: int,
    region: Box,
    corrected: Corrected,
    structures: Sequence[Structure],
) -> dict[int, Tensor]:
    """By how much logits of corrected slices must rise, (N, rows, columns) in a region of the
    slices, 0 where nothing is known. volume: probabilities of the slices from `first` on, there.
    """
    top, bottom, left, right = region
    errors = {}
    for index in corrected.slices:
        if not 0 <= index - first < volume.count:
            continue
        masks = torch.from_numpy(corrected.masks(index, structures)[:, top:bottom, left:right])
        known = torch.from_numpy(corrected.known[index, top:bottom, left:right])
        side = 2 * masks.float() - 1
        # Only what was wrong, or nearly: where it was right, the neighbours are left alone.
        short = (config.MARGIN - side * _logits(volume, index - first)).clamp(min=0)
        errors[index] = side * short * known
    return errors


def spread(
    volume: ProbabilityVolume, first: int, errors: Mapping[int, Tensor], reach: float
) -> ProbabilityVolume:
    """With the errors of corrected slices taken from their neighbours, too. reach: slices over
    which that fades to 1 / e."""
    values = volume.values.copy()
    for n in range(volume.count):
        weights = {k: math.exp(-abs(k - first - n) / reach) for k in errors}
        nearest = max(weights.values(), default=0.0)
        if nearest < config.FAINT:
            continue
        total = sum(weights.values())
        mean = torch.stack([w * errors[k] for k, w in weights.items()]).sum(dim=0) / total
        values[:, n] = as_bytes((_logits(volume, n) + nearest * mean).sigmoid()).numpy()
    return ProbabilityVolume(values)


def prior_factors(
    before: Fused, region: Box, corrected: Corrected, structures: Sequence[Structure]
) -> npt.NDArray[np.float64]:
    """By which factors the prior's weights before anything was corrected should be multiplied, (N,)
    in [0, 1]: by cross-entropy in those corrected slices that have a structure."""
    predicted, prior, first = before.predicted, before.prior, before.first
    if prior is None or not corrected.slices:
        return np.ones(len(structures))
    top, bottom, left, right = region
    tried = np.linspace(0, 1, 5)
    losses = np.zeros((len(tried), len(structures)))
    count = np.zeros(len(structures))
    for index in corrected.slices:
        if not 0 <= index - first < predicted.count:
            continue
        masks = corrected.masks(index, structures)[:, top:bottom, left:right]
        known = corrected.known[index, top:bottom, left:right]
        there = masks.any(axis=(1, 2))
        count += there
        own, known_before = (each.values[:, index - first] / 255 for each in (predicted, prior))
        for n, factor in enumerate(tried):
            weight = (factor * before.prior_weight)[:, None, None]
            mean = ((1 - weight) * own + weight * known_before).clip(0.002, 0.998)
            likely = np.log(np.where(masks, mean, 1 - mean)) * known
            losses[n] -= there * likely.sum(axis=(1, 2))
    # The last of equally good ones: of a structure that no corrected slice has, the weight stays.
    # One slice says little of all others.
    best = tried[::-1][losses[::-1].argmin(axis=0)]
    return 1 - (1 - best) * count / (count + 1)


def reach_of(height: float, spacing: float) -> float:
    """Slices over which an error fades to 1 / e. height: of the structures, spacing: of the slices,
    mm."""
    return max(config.REACH * height / spacing, 0.5)


def _logits(volume: ProbabilityVolume, n: int) -> Tensor:
    """Logits of a slice, (N, rows, columns), bounded by the resolution of bytes."""
    shown = torch.from_numpy(np.ascontiguousarray(volume.values[:, n])).float() / 255
    return torch.logit(shown.clamp(1 / 512, 1 - 1 / 512))
