"""What is learned from the support shown in one way: whole slices, squares of them, or slices along
another axis."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import FRAME_AXIS
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.common.class_balance import (
    NEAR_SHARE_IN_LOSS,
    PositionWeights,
    near_foreground_mask,
)
from OFLSAM2Core.methods.common.feature_normalization import probe_slices
from OFLSAM2Core.methods.common.mapping_network import (
    NormalEquations,
    NormalEquationsAccumulator,
    PcaFeatureMap,
    mean_equations,
    sample_positions,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.episodic_training import EpisodicTrainer
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.support_encoding import SupportSlice, encode_support
from OFLSAM2Core.preprocessing.support_stack import SupportStack
from OFLSAM2Core.slice_position.regression import PositionNoise, PositionRegressor, PositionScale

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewTraining:
    """Encoded slices, the mapping network fitted to them, and what was trained on them.

    originals: the encoded slices without the copies. tau: the mapping network fitted to
    `equations`, of all cases. level_error: how wrong levels will be in a new volume.
    """

    originals: Sequence[SupportSlice]
    head: PcaFeatureMap
    balance: PositionWeights
    equations: NormalEquations
    tau: Tensor
    episodes: EpisodicTrainer
    level_error: PositionNoise

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        support: Sequence[SupportStack],
        structures: Sequence[Structure],
        options: LearnOptions,
        rng: np.random.Generator,
        on_progress: ProgressCallback,
        partners: npt.NDArray[np.intp] | None = None,
        levels_of_whole: PositionNoise | None = None,
        votes: Sequence[AtlasPrior] | None = None,
    ) -> ViewTraining:
        """partners: as `symmetric_label_map` gives them. levels_of_whole: in another look levels
        come from what whole slices showed, and the readout alone is learned. votes: of the other
        cases, on each; None: the readout is to do without."""
        slices = encode_support(
            backbone, support, structures, options, rng, on_progress, partners, votes
        )
        originals = [s for s in slices if s.copy == 0]
        level_error = levels_of_whole or _level_error(support, originals)
        logger.info("error of levels: shift %.2f, scaling %.2f", *astuple(level_error))
        in_volumes = support[0].slicing.orientation != FRAME_AXIS
        head = PcaFeatureMap.fit(
            [_comparable(s, backbone) for s in originals], with_places=in_volumes
        )
        near = [near_foreground_mask(s.masks.float() / 255, backbone.feature_size) for s in slices]
        balance = PositionWeights.from_support(near).to(backbone.device)
        readout_alone = levels_of_whole is not None
        as_found = level_error.found_again if readout_alone else level_error
        by_case = _equations_by_case(
            backbone, head, slices, near, balance, as_found, rng, on_progress
        )
        tau_without = {
            # A single frame has no other to be fitted on.
            case: _fit(
                mean_equations([e for other, e in by_case.items() if other != case] or [own]),
                options,
            )
            for case, own in by_case.items()
        }
        in_loss = PositionWeights.from_support(near, NEAR_SHARE_IN_LOSS).to(backbone.device)
        episodes = EpisodicTrainer(
            backbone, slices, head, tau_without, in_loss, level_error, options, rng, readout_alone
        )
        episodes.train(on_progress)
        equations = mean_equations(list(by_case.values()))
        tau = _fit(equations, options)
        return cls(originals, head, balance, equations, tau, episodes, level_error)


def level_finder(
    slices: Sequence[SupportSlice], support: Sequence[SupportStack]
) -> PositionRegressor:
    descriptors = torch.stack([s.descriptor for s in slices])
    levels = torch.tensor([s.level for s in slices], device=descriptors.device)
    cases = torch.tensor([s.case for s in slices], device=descriptors.device)
    half = float(np.mean([scale_of(case).half for case in support]))
    return PositionRegressor(descriptors, levels, cases, half)


def scale_of(case: SupportStack) -> PositionScale:
    return PositionScale.of_labels(case.labels, case.slicing.slice_spacing)


def _level_error(
    support: Sequence[SupportStack], originals: Sequence[SupportSlice]
) -> PositionNoise:
    """How wrong levels of a new volume will be: each support case is found by the others."""
    if len(support) == 1 or support[0].slicing.orientation == FRAME_AXIS:
        return PositionNoise()
    pairs = []
    for number, case in enumerate(support):
        finder = level_finder(
            [s for s in originals if s.case != number],
            [other for other in support if other is not case],
        )
        seen = probe_slices(case.slicing.count)
        own = [s for s in originals if s.case == number and s.index in seen]
        step = case.slicing.slice_spacing
        found = finder.find(
            torch.stack([s.descriptor for s in own]),
            [s.index * step for s in own],
            case.slicing.count * step,
        )
        pairs.append((found, scale_of(case)))
    return PositionNoise.of_pairs(pairs)


def _comparable(support_slice: SupportSlice, backbone: Backbone) -> Tensor:
    return support_slice.features(backbone).normalized_embedding


def _equations_by_case(
    backbone: Backbone,
    head: PcaFeatureMap,
    slices: Sequence[SupportSlice],
    near: Sequence[Tensor],
    balance: PositionWeights,
    level_error: PositionNoise,
    rng: np.random.Generator,
    on_progress: ProgressCallback,
) -> dict[int, NormalEquations]:
    sums: dict[int, NormalEquationsAccumulator] = {}
    for number, each in enumerate(slices):
        on_progress(Progress("learn", number, len(slices), "fitting the mapping network"))
        wanted = each.memory(backbone).features.flatten(2)
        some = sample_positions(wanted.shape[-1], rng, len(slices)).to(wanted.device)
        level = level_error.disturbed(each.level, rng)
        rows = head.rows(_comparable(each, backbone), level, some)
        sums.setdefault(each.case, NormalEquationsAccumulator()).add(
            rows, wanted[..., some], near[number].to(rows.device)[:, some], balance
        )
    return {case: total.mean() for case, total in sums.items()}


def _fit(equations: NormalEquations, options: LearnOptions) -> Tensor:
    if options.closed_form:
        return equations.closed_form()
    start = torch.zeros_like(equations.moment)
    return equations.steepest_descent(start, options.iterations_learning)
