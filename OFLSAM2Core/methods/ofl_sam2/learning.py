"""Learning a task: from whole slices, from other looks at them, and what is kept of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import SupportSlices
from OFLSAM2Core.methods.ofl_sam2.across import Across
from OFLSAM2Core.methods.ofl_sam2.consistency import width_of
from OFLSAM2Core.methods.ofl_sam2.extents import Extents
from OFLSAM2Core.methods.ofl_sam2.learned_parts import LearnedParts
from OFLSAM2Core.methods.ofl_sam2.lesson import Lesson, level_finder, scale_of
from OFLSAM2Core.methods.ofl_sam2.look import Look
from OFLSAM2Core.methods.ofl_sam2.mapping_network import (
    REGULARISER,
    MappingNetwork,
)
from OFLSAM2Core.methods.ofl_sam2.memory_bank import SupportMemory
from OFLSAM2Core.methods.ofl_sam2.mirror import mirror_partners
from OFLSAM2Core.methods.ofl_sam2.pieces import in_one_piece, neighbours
from OFLSAM2Core.methods.ofl_sam2.registered_look import RegisteredLook
from OFLSAM2Core.methods.ofl_sam2.support_set import SupportSlice, spread
from OFLSAM2Core.methods.ofl_sam2.votes import Votes
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
    areas = [_areas(case, structures) for case in support]
    partners = _partners(support, structures, options)
    registered, votes = None, None
    if options.registration and support[0].slicing.world_axis != FRAME_AXIS:
        registered, votes = RegisteredLook.of_support(
            support, structures, partners, backbone.device, on_progress
        )
    lesson = Lesson.of(
        backbone, support, structures, options, rng, on_progress, partners, votes=votes
    )
    parts = _parts(backbone, lesson, support, areas)
    level_error = lesson.level_error
    del lesson  # Its features take up to 2 GB, and others are to come.

    def look(
        shown: Sequence[SupportSlices],
        message: str,
        partners: npt.NDArray[np.intp] | None,
        votes: Sequence[Votes] | None = None,
    ) -> Look:
        report = _with_message(on_progress, message)
        found = Lesson.of(
            backbone, shown, structures, options, rng, report, partners, level_error, votes
        )
        return Look(found.head, found.tau, found.episodes.readout)

    if squares := [
        replace(case, prepared=case.square) for case in support if case.square is not None
    ]:
        parts = replace(parts, close_up=look(squares, "looking closer", partners, votes))
    for across in zip(*(case.across for case in support), strict=True):
        extents = _extents(across, [_areas(case, structures) for case in across])
        message = f"{across[0].slicing.world_axis} slices"
        own_partners = _partners(across, structures, options)
        side = Across(look(across, message, own_partners), extents)
        parts = replace(parts, across=(*parts.across, side))
    parts = replace(parts, registered=registered)
    labels = [case.labels for case in support]
    pixels = [math.prod(case.slicing.spacing_in_plane) for case in support]
    return LearnedTask(
        structures=structures,
        backbone=backbone.name,
        backbone_identity=backbone.identity,
        backbone_precision=backbone.precision,
        method="ofl-sam2",
        world_axis=support[0].slicing.world_axis,
        preparation=preparation,
        options=options,
        tensors=parts.to_tensors(),
        facts={
            "in_one_piece": [in_one_piece(labels, each.label) for each in structures],
            "touched": neighbours(labels, [each.label for each in structures]),
            "widths_mm": [
                width_of([case[n] for case in areas], pixels) for n in range(len(structures))
            ],
        },
    )


def _parts(
    backbone: Backbone,
    lesson: Lesson,
    support: Sequence[SupportSlices],
    areas: Sequence[npt.NDArray],
) -> LearnedParts:
    attention = lesson.episodes.attention
    kept = _kept_in_memory(lesson.originals)
    memories = [each.memory(backbone) for each in kept]
    if attention is not None:
        memories = [attention.compress(memory) for memory in memories]
    return LearnedParts(
        fusion=lesson.episodes.fusion,
        readout=lesson.episodes.readout,
        attention=attention,
        mapping=MappingNetwork.start(
            lesson.head, lesson.tau, lesson.equations, lesson.balance, REGULARISER
        ),
        memory=SupportMemory(memories, torch.stack([s.descriptor for s in kept])),
        levels=level_finder(lesson.originals, support),
        extents=_extents(support, areas),
    )


def _partners(
    shown: Sequence[SupportSlices], structures: Sequence[Structure], options: MethodOptions
) -> npt.NDArray[np.intp] | None:
    """`mirror_partners`, where there are copies that may be mirrored: the preset fast has none."""
    if not options.mirror or options.augmented_copies == 0:
        return None
    partners = mirror_partners(shown, structures)
    if partners is not None:
        logger.info("both sides are alike: every second copy is mirrored")
    return partners


def _with_message(on_progress: ProgressCallback, message: str) -> ProgressCallback:
    """Progress that says `message` before its own."""

    def report(progress: Progress) -> None:
        both = f"{message}: {progress.message}" if progress.message else message
        on_progress(replace(progress, message=both))

    return report


def _areas(case: SupportSlices, structures: Sequence[Structure]) -> npt.NDArray[np.int64]:
    """Pixels of each structure in each slice: (N, slices)."""
    return np.stack([(case.labels == each.label).sum(axis=(1, 2)) for each in structures])


def _extents(support: Sequence[SupportSlices], areas: Sequence[npt.NDArray]) -> Extents:
    spacings = [case.slicing.slice_spacing for case in support]
    return Extents.of_support(areas, spacings, [scale_of(case) for case in support])


def _kept_in_memory(originals: Sequence[SupportSlice]) -> list[SupportSlice]:
    """An even choice, slices with structures three times as often as slices without."""
    full = [s for s in originals if bool(s.present.any())]
    empty = [s for s in originals if not bool(s.present.any())]
    wanted = min(len(full), MEMORY_SLICES - min(len(empty), MEMORY_SLICES // 4))
    return spread(full, wanted) + spread(empty, min(len(empty), MEMORY_SLICES - wanted))
