"""Fuse: prediction and prior, put together in 3D, and judged by the intensities of the volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.methods.ofl_sam2_atlas.config import CONFIRMED
from OFLSAM2Core.methods.ofl_sam2_atlas.location import Location
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.postprocessing.confidence import (
    TEMPERATURE,
    WITH_REGISTRATION,
    atlas_agreement,
    calibrated,
    extent_confidence,
    slice_confidence,
    soft_label_competition,
)
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume

CPU = torch.device("cpu")

TRUSTED = 2.0
"""Weight of the prior where both are expected to be equally good
(docs/experiments/atlas-prior.md)."""

MOST = 0.85
"""The largest share of the prior."""

UNTRIED = 0.7
"""Dice expected of the prior of a single support case, to which no other was registered."""


@dataclass(frozen=True)
class Fused:
    """probabilities: of the slices from `first` on, in the window's part of their own grid. sure:
    what S_cf is multiplied by, of all slices, (N, slices). predicted, prior: what was averaged;
    prior_weight: of the prior in that, (N,)."""

    volume: ProbabilityVolume
    first: int
    sure: npt.NDArray[np.float64]
    temperature: float
    predicted: ProbabilityVolume
    prior: ProbabilityVolume | None
    prior_weight: npt.NDArray[np.float64]


def fuse(
    model: Model,
    scan: Scan,
    location: Location,
    predicted: dict[int, Tensor],
    intensity_refinement: bool = True,
    corrected_nearby: Callable[[ProbabilityVolume, int], ProbabilityVolume] | None = None,
    prior_factors: npt.NDArray[np.float64] | float = 1.0,
) -> Fused:
    """predicted: probabilities of slices in bytes on the image's grid, (N, S, S). corrected_nearby:
    takes the fused volume and the slice at which it begins, and gives it as a person's corrections
    change it. prior_factors: what the prior's weight of each structure is multiplied by, (N,)."""
    slicing = scan.slicing
    first, stop = min(predicted), max(predicted) + 1
    framing = location.encoded.window.framing
    top, bottom, left, right = framing.region
    empty = torch.zeros_like(next(iter(predicted.values())))
    volume = ProbabilityVolume(
        np.stack([predicted.get(i, empty).numpy() for i in range(first, stop)], axis=1)
    ).smoothed(model.widths, slicing.slice_spacing)
    on_network_grid = volume
    volume = ProbabilityVolume.of_slices(
        (
            framing.to_grid(on_network_grid.slice(n, CPU))[:, top:bottom, left:right]
            for n in range(on_network_grid.count)
        ),
        on_network_grid.count,
    )
    del on_network_grid
    touched = [list(own) for own in model.touched]
    volume.remove_spurious_components(model.single, touched)
    temperature, highest = TEMPERATURE, None
    before, weight = volume, np.zeros(len(model.structures))
    known: ProbabilityVolume | None = None
    if location.prior is not None:
        prior = location.prior
        known = ProbabilityVolume.of_slices(
            (
                prior.grid.on_slices(prior.shares, slicing, prior.middle, index, framing.region)
                for index in range(first, stop)
            ),
            stop - first,
        )
        weight = prior_weights(volume, known, np.array(model.reliability.dice)) * confirmed(
            volume, known
        )
        weight = weight * prior_factors
        volume = weighted_mean(volume, known, weight)
        volume.remove_spurious_components(model.single, touched)
        temperature, highest = WITH_REGISTRATION, known.highest()
    if intensity_refinement:
        shown = scan.stack[first:stop, top:bottom, left:right]
        volume = volume.with_intensity_likelihood(shown, touched)
        volume.remove_spurious_components(model.single, touched)
    if corrected_nearby is not None:
        volume = corrected_nearby(volume, first)
    count = slicing.count
    areas = np.zeros((len(model.structures), count), np.int64)
    areas[:, first:stop] = volume.areas()
    scale = location.scale
    if scale is None:
        sure = np.ones(areas.shape)
    else:
        slice_positions = np.array(
            [scale.slice_position(i * slicing.slice_spacing) for i in range(count)]
        )
        sure = extent_confidence(areas, slice_positions, model.extents)
    if highest is not None:
        votes = np.zeros(areas.shape)
        votes[:, first:stop] = highest
        sure = sure * atlas_agreement(areas, votes)
    return Fused(volume, first, sure, temperature, before, known, weight)


def confirmed(volume: ProbabilityVolume, prior: ProbabilityVolume) -> npt.NDArray[np.float64]:
    """How far the prediction confirms the prior of each structure, (N,) in [0, 1]."""
    found = []
    for own, of_prior in zip(volume.values, prior.values, strict=True):
        where = of_prior > 127
        mean = own[where].mean() / 255 if where.any() else 0.0
        found.append(min(float(mean) / CONFIRMED, 1.0))
    return np.array(found)


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
    return ProbabilityVolume.of_slices(
        (
            torch.lerp(predicted.slice(index, CPU), prior.slice(index, CPU), own)
            for index in range(predicted.count)
        ),
        predicted.count,
    )


def _odds(dice: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    likely = np.clip(dice, 0.02, 0.98)
    return likely / (1 - likely)


def labels_and_confidence(
    model: Model, probabilities: Tensor, temperature: float, sure: Tensor | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], dict[str, float]]:
    """Labels and confidence of a slice, (H, W), and S_cf by structure. probabilities: (N, H, W).
    sure: what S_cf is multiplied by, (N,)."""
    shared = soft_label_competition(probabilities.clamp(0, 1))
    which = shared.argmax(dim=0, keepdim=True)
    shown = calibrated(shared, temperature).gather(0, which)[0]
    scores = slice_confidence(shared)
    if sure is not None:
        scores = scores * sure
    values = torch.tensor([0, *(s.label for s in model.structures)], dtype=torch.uint8)
    return (
        values[which[0]].numpy(),
        (shown * 255).round().clamp(0, 255).to(torch.uint8).numpy(),
        {s.name: round(float(score), 4) for s, score in zip(model.structures, scores, strict=True)},
    )
