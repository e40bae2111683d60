"""What corrected slices say of the slices beside them: what was wrong in one is wrong likewise in
the next, and less and less so farther away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.locate_predict_fuse import config
from OFLSAM2Core.methods.locate_predict_fuse.corrected import Corrected
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
    slices, 0 where nothing is known. volume: what was said of the slices from `first` on, there.
    """
    top, bottom, left, right = region
    errors = {}
    for index in corrected.slices:
        if not 0 <= index - first < volume.count:
            continue
        masks = torch.from_numpy(corrected.masks(index, structures)[:, top:bottom, left:right])
        known = torch.from_numpy(corrected.known[index, top:bottom, left:right])
        truth = config.KNOWN * (2 * masks.float() - 1)
        errors[index] = (truth - _logits(volume, index - first)) * known
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


def reach_of(height: float, spacing: float) -> float:
    """In slices. height: of the structures, spacing: of the slices, mm."""
    return max(config.REACH * height / spacing, 0.5)


def _logits(volume: ProbabilityVolume, n: int) -> Tensor:
    """Of a slice, (N, rows, columns), no surer than what is known."""
    shown = torch.from_numpy(np.ascontiguousarray(volume.values[:, n])).float() / 255
    return torch.logit(shown.clamp(1 / 512, 1 - 1 / 512))
