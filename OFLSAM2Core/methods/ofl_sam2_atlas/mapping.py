"""The mapping network of the support, and without each case of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.common.class_balance import PositionWeights, near_foreground_mask
from OFLSAM2Core.methods.common.high_pass import BLOCK
from OFLSAM2Core.methods.common.mapping_network import (
    NormalEquations,
    NormalEquationsAccumulator,
    PcaFeatureMap,
    mean_equations,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.config import COMPONENTS, POSITIONS
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Mapping
from OFLSAM2Core.methods.ofl_sam2_atlas.support import SupportSlice
from OFLSAM2Core.slice_position.regression import PositionNoise


def fit_mapping(
    slices: Sequence[SupportSlice], place: bool, error: PositionNoise, rng: np.random.Generator
) -> tuple[Mapping, dict[int, Mapping], NormalEquations, PositionWeights]:
    """The mapping network fitted to all slices; one fitted without each case, by the case's number;
    the normal equations of all, to which corrections can be added; and the weights of positions."""
    originals = [each for each in slices if each.copy == 0]
    features = PcaFeatureMap.fit(
        [each.embedding.float()[None] for each in originals], COMPONENTS, with_places=place
    )
    side = slices[0].embedding.shape[-1]
    near = [near_foreground_mask(each.masks.float() / 255, side) for each in slices]
    balance = PositionWeights.from_support(near)
    sums: dict[int, NormalEquationsAccumulator] = {}
    for each, own_near in zip(slices, near, strict=True):
        total = sums.setdefault(each.case, NormalEquationsAccumulator())
        _add(total, each, own_near, features, balance, error, rng)
    by_case = {case: total.mean() for case, total in sums.items()}
    without = {
        case: Mapping(
            features,
            mean_equations(
                [other for key, other in by_case.items() if key != case] or [own]
            ).closed_form(),
        )
        for case, own in by_case.items()
    }
    equations = mean_equations(list(by_case.values()))
    return Mapping(features, equations.closed_form()), without, equations, balance


def equations_of(
    slices: Sequence[SupportSlice],
    features: PcaFeatureMap,
    balance: PositionWeights,
    error: PositionNoise,
    rng: np.random.Generator,
) -> NormalEquations:
    """Normal equations of one more case, made as those of the others were."""
    total = NormalEquationsAccumulator()
    for each in slices:
        near = near_foreground_mask(each.masks.float() / 255, each.embedding.shape[-1])
        _add(total, each, near, features, balance, error, rng)
    return total.mean()


def _add(
    total: NormalEquationsAccumulator,
    each: SupportSlice,
    near: Tensor,
    features: PcaFeatureMap,
    balance: PositionWeights,
    error: PositionNoise,
    rng: np.random.Generator,
) -> None:
    """Some positions of a slice, at a slice position as uncertain as it will be."""
    some = torch.from_numpy(rng.permutation(near.shape[1])[:POSITIONS])
    slice_position = error.disturbed(each.slice_position, rng) if features.with_places else 0.0
    rows = features.rows(each.embedding.float()[None], slice_position, some)
    total.add(rows, wanted_of(each.masks.float() / 255)[..., some], near[:, some], balance)


def wanted_of(masks: Tensor) -> Tensor:
    """Targets of the mapping network for masks (N, S, S) in [0, 1]: (N, BLOCK * BLOCK, positions),
    from -1 to 1."""
    return F.pixel_unshuffle(masks[:, None], BLOCK).flatten(2) * 2 - 1
