"""Learning a task: encode the support, fit the mapping network, train, keep memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import SupportSlices
from OFLSAM2Core.methods.ofl_sam2.balance import (
    NEAR_SHARE_IN_LOSS,
    Balance,
    near_structures,
)
from OFLSAM2Core.methods.ofl_sam2.consistency import averaged_along
from OFLSAM2Core.methods.ofl_sam2.episodes import Episodes
from OFLSAM2Core.methods.ofl_sam2.extents import Extents
from OFLSAM2Core.methods.ofl_sam2.learned_parts import LearnedParts
from OFLSAM2Core.methods.ofl_sam2.levels import LevelError, LevelFinder, LevelScale
from OFLSAM2Core.methods.ofl_sam2.locator import Locator
from OFLSAM2Core.methods.ofl_sam2.mapping_network import (
    REGULARISER,
    EquationsSum,
    FeatureHead,
    MappingNetwork,
    NormalEquations,
    some_positions,
)
from OFLSAM2Core.methods.ofl_sam2.memory_bank import SupportMemory
from OFLSAM2Core.methods.ofl_sam2.pieces import in_one_piece, neighbours
from OFLSAM2Core.methods.ofl_sam2.statistics import previewed_slices
from OFLSAM2Core.methods.ofl_sam2.support_set import SupportSlice, encode_support
from OFLSAM2Core.methods.options import MethodOptions
from OFLSAM2Core.preparation import Preparation
from OFLSAM2Core.results import Progress, ProgressCallback
from OFLSAM2Core.slicing import FRAME_AXIS
from OFLSAM2Core.structures import Structure

logger = logging.getLogger(__name__)

MEMORY_SLICES = 48
"""Support slices kept in the learned task, spread over the cases: about 0.6 MB each."""


def learn(
    backbone: Backbone,
    support: Sequence[SupportSlices],
    structures: tuple[Structure, ...],
    preparation: Preparation,
    options: MethodOptions,
    seed: int,
    on_progress: ProgressCallback,
) -> LearnedTask:
    """A task learned from prepared support cases; the same seed gives the same task."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    locator = Locator.learn(backbone, support, on_progress) if preparation.whole else None
    slices = encode_support(backbone, support, structures, options, rng, on_progress)
    originals = [s for s in slices if s.copy == 0]
    level_error = _level_error(support, originals)
    logger.info("error of levels: shift %.2f, scaling %.2f", *astuple(level_error))
    in_volumes = support[0].slicing.world_axis != FRAME_AXIS
    head = FeatureHead.fit([_comparable(s, backbone) for s in originals], with_places=in_volumes)
    near = [near_structures(s.masks.float() / 255, backbone.feature_size) for s in slices]
    balance = Balance.of_support(near).to(backbone.device)
    by_case = _equations_by_case(
        backbone, head, slices, near, balance, level_error, rng, on_progress
    )
    tau_without = {
        # A single frame has no other to be fitted on.
        case: _fit(_mean([e for other, e in by_case.items() if other != case] or [own]), options)
        for case, own in by_case.items()
    }
    in_loss = Balance.of_support(near, NEAR_SHARE_IN_LOSS).to(backbone.device)
    episodes = Episodes(backbone, slices, head, tau_without, in_loss, level_error, options, rng)
    episodes.train(on_progress)

    equations = _mean(list(by_case.values()))
    tau = _fit(equations, options)
    kept = _kept_in_memory(originals)
    memories = [each.memory(backbone) for each in kept]
    if episodes.attention is not None:
        memories = [episodes.attention.compress(memory) for memory in memories]
    areas = [_areas(case, structures) for case in support]
    parts = LearnedParts(
        fusion=episodes.fusion,
        readout=episodes.readout,
        attention=episodes.attention,
        mapping=MappingNetwork.start(head, tau, equations, balance, REGULARISER),
        memory=SupportMemory(memories, torch.stack([s.descriptor for s in kept])),
        levels=_level_finder(originals, support),
        extents=_extents(support, areas),
    )
    labels = [case.labels for case in support]
    pixels = [math.prod(case.slicing.spacing_in_plane) for case in support]
    return LearnedTask(
        structures=structures,
        backbone=backbone.name,
        backbone_identity=backbone.identity,
        method="ofl-sam2",
        world_axis=support[0].slicing.world_axis,
        preparation=preparation,
        options=options,
        tensors=parts.to_tensors() | (locator.to_tensors() if locator else {}),
        facts={
            "in_one_piece": [in_one_piece(labels, each.label) for each in structures],
            "touched": neighbours(labels, [each.label for each in structures]),
            "averaged_along_mm": [
                averaged_along([case[n] for case in areas], pixels) for n in range(len(structures))
            ],
        },
        support_names=tuple(case.name for case in support),
    )


def _level_finder(slices: Sequence[SupportSlice], support: Sequence[SupportSlices]) -> LevelFinder:
    descriptors = torch.stack([s.descriptor for s in slices])
    levels = torch.tensor([s.level for s in slices], device=descriptors.device)
    cases = torch.tensor([s.case for s in slices], device=descriptors.device)
    half = float(np.mean([_scale(case).half for case in support]))
    return LevelFinder(descriptors, levels, cases, half)


def _scale(case: SupportSlices) -> LevelScale:
    return LevelScale.of_labels(case.labels, case.slicing.slice_spacing)


def _areas(case: SupportSlices, structures: Sequence[Structure]) -> npt.NDArray[np.int64]:
    """Pixels of each structure in each slice: (N, slices)."""
    return np.stack([(case.labels == each.label).sum(axis=(1, 2)) for each in structures])


def _extents(support: Sequence[SupportSlices], areas: Sequence[npt.NDArray]) -> Extents:
    spacings = [case.slicing.slice_spacing for case in support]
    return Extents.of_support(areas, spacings, [_scale(case) for case in support])


def _level_error(support: Sequence[SupportSlices], originals: Sequence[SupportSlice]) -> LevelError:
    """How wrong levels of a new volume will be: each support case is found by the others."""
    if len(support) == 1 or support[0].slicing.world_axis == FRAME_AXIS:
        return LevelError()
    pairs = []
    for number, case in enumerate(support):
        finder = _level_finder(
            [s for s in originals if s.case != number],
            [other for other in support if other is not case],
        )
        seen = previewed_slices(case.slicing.count)
        own = [s for s in originals if s.case == number and s.index in seen]
        step = case.slicing.slice_spacing
        found = finder.find(
            torch.stack([s.descriptor for s in own]),
            [s.index * step for s in own],
            case.slicing.count * step,
        )
        pairs.append((found, _scale(case)))
    return LevelError.of_pairs(pairs)


def _comparable(support_slice: SupportSlice, backbone: Backbone) -> Tensor:
    return support_slice.features(backbone).comparable


def _equations_by_case(
    backbone: Backbone,
    head: FeatureHead,
    slices: Sequence[SupportSlice],
    near: Sequence[Tensor],
    balance: Balance,
    level_error: LevelError,
    rng: np.random.Generator,
    on_progress: ProgressCallback,
) -> dict[int, NormalEquations]:
    sums: dict[int, EquationsSum] = {}
    for number, each in enumerate(slices):
        on_progress(Progress("learn", number, len(slices), "fitting the mapping network"))
        wanted = each.memory(backbone).features.flatten(2)
        some = some_positions(wanted.shape[-1], rng).to(wanted.device)
        level = level_error.disturbed(each.level, rng)
        rows = head.rows(_comparable(each, backbone), level, some)
        sums.setdefault(each.case, EquationsSum()).add(
            rows, wanted[..., some], near[number].to(rows.device)[:, some], balance
        )
    return {case: total.mean() for case, total in sums.items()}


def _mean(equations: Sequence[NormalEquations]) -> NormalEquations:
    total = equations[0]
    for each in equations[1:]:
        total = total.plus(each)
    return NormalEquations(total.gram / len(equations), total.moment / len(equations))


def _fit(equations: NormalEquations, options: MethodOptions) -> Tensor:
    if options.closed_form:
        return equations.closed_form()
    start = torch.zeros_like(equations.moment)
    return equations.steepest_descent(start, options.iterations_learning)


def _kept_in_memory(originals: Sequence[SupportSlice]) -> list[SupportSlice]:
    """An even choice, slices with structures three times as often as slices without."""
    full = [s for s in originals if bool(s.present.any())]
    empty = [s for s in originals if not bool(s.present.any())]
    wanted = min(len(full), MEMORY_SLICES - min(len(empty), MEMORY_SLICES // 4))
    return _spread(full, wanted) + _spread(empty, min(len(empty), MEMORY_SLICES - wanted))


def _spread(slices: list[SupportSlice], count: int) -> list[SupportSlice]:
    return [slices[i] for i in np.linspace(0, len(slices) - 1, count).round().astype(int)]
