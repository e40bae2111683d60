"""Learning a task: from whole slices, from other looks at them, and what is kept of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from OFLSAM2Core.atlas.atlas_set import AtlasSet
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import FRAME_AXIS
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.methods.base import Context, MethodState
from OFLSAM2Core.methods.common.bilateral_symmetry import symmetric_label_map
from OFLSAM2Core.methods.common.mapping_network import (
    REGULARISER,
    MappingNetwork,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.memory_bank import SupportMemory
from OFLSAM2Core.methods.ofl_sam2_atlas.multiplanar import OrthogonalViewModel
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.state import VERSION, AtlasMethodState, Metadata
from OFLSAM2Core.methods.ofl_sam2_atlas.support_encoding import SupportSlice, spread
from OFLSAM2Core.methods.ofl_sam2_atlas.view_model import ViewModel
from OFLSAM2Core.methods.ofl_sam2_atlas.view_training import ViewTraining, level_finder, scale_of
from OFLSAM2Core.methods.ofl_sam2_atlas.views import support_views
from OFLSAM2Core.postprocessing.connected_components import adjacent_structures, is_single_component
from OFLSAM2Core.postprocessing.probability_volume import structure_width
from OFLSAM2Core.preprocessing.support_stack import SupportStack
from OFLSAM2Core.slice_position.extents import StructureExtents

logger = logging.getLogger(__name__)

MEMORY_SLICES = 48
"""Support slices kept in the learned task, spread over the cases: about 0.6 MB each."""


def learn(ctx: Context, cases: Sequence[SupportCase], options: LearnOptions) -> MethodState:
    """What the method learns from support cases; the same seed gives the same state."""
    structures = cases[0].structures
    preprocessing, support = support_views(cases, ctx.needed_backbone, options)
    with ctx.seeded():
        parts = _learn_parts(ctx, support, structures, options)
    labels = [case.labels for case in support]
    areas = [_areas(case, structures) for case in support]
    pixels = [math.prod(case.slicing.spacing_in_plane) for case in support]
    metadata = Metadata(
        preprocessing,
        support[0].slicing.orientation,
        [is_single_component(labels, each.label) for each in structures],
        adjacent_structures(labels, [each.label for each in structures]),
        [structure_width([case[n] for case in areas], pixels) for n in range(len(structures))],
    )
    summary = {"slicing axis": metadata.orientation, "modality": preprocessing.modality}
    return MethodState(VERSION, metadata.encode(), parts.to_tensors(), summary)


def _learn_parts(
    ctx: Context,
    support: Sequence[SupportStack],
    structures: tuple[Structure, ...],
    options: LearnOptions,
) -> AtlasMethodState:
    backbone, on_progress, rng = ctx.needed_backbone, ctx.report, ctx.rng()
    areas = [_areas(case, structures) for case in support]
    partners = _partners(support, structures, options)
    registered, votes = None, None
    if options.atlas_prior and support[0].slicing.orientation != FRAME_AXIS:
        registered, votes = AtlasSet.from_support(
            support, structures, partners, backbone.device, on_progress
        )
    lesson = ViewTraining.of(
        backbone, support, structures, options, rng, on_progress, partners, votes=votes
    )
    parts = _parts(backbone, lesson, support, areas)
    level_error = lesson.level_error
    del lesson  # Its features take up to 2 GB, and others are to come.

    def look(
        shown: Sequence[SupportStack],
        message: str,
        partners: npt.NDArray[np.intp] | None,
        votes: Sequence[AtlasPrior] | None = None,
    ) -> ViewModel:
        report = _with_message(on_progress, message)
        found = ViewTraining.of(
            backbone, shown, structures, options, rng, report, partners, level_error, votes
        )
        return ViewModel(found.head, found.tau, found.episodes.readout)

    if squares := [
        replace(case, prepared=case.square) for case in support if case.square is not None
    ]:
        parts = replace(parts, close_up=look(squares, "looking closer", partners, votes))
    for across in zip(*(case.across for case in support), strict=True):
        extents = _extents(across, [_areas(case, structures) for case in across])
        message = f"{across[0].slicing.orientation} slices"
        own_partners = _partners(across, structures, options)
        side = OrthogonalViewModel(look(across, message, own_partners), extents)
        parts = replace(parts, across=(*parts.across, side))
    return replace(parts, registered=registered)


def _parts(
    backbone: Backbone,
    lesson: ViewTraining,
    support: Sequence[SupportStack],
    areas: Sequence[npt.NDArray],
) -> AtlasMethodState:
    attention = lesson.episodes.attention
    kept = _kept_in_memory(lesson.originals)
    memories = [each.memory(backbone) for each in kept]
    if attention is not None:
        memories = [attention.compress(memory) for memory in memories]
    return AtlasMethodState(
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
    shown: Sequence[SupportStack], structures: Sequence[Structure], options: LearnOptions
) -> npt.NDArray[np.intp] | None:
    """`symmetric_label_map`, where there are copies that may be mirrored: the preset fast has
    none."""
    if not options.flip_augmentation or options.augmented_copies == 0:
        return None
    partners = symmetric_label_map(shown, structures)
    if partners is not None:
        logger.info("both sides are alike: every second copy is mirrored")
    return partners


def _with_message(on_progress: ProgressCallback, message: str) -> ProgressCallback:
    """Progress that says `message` before its own."""

    def report(progress: Progress) -> None:
        both = f"{message}: {progress.message}" if progress.message else message
        on_progress(replace(progress, message=both))

    return report


def _areas(case: SupportStack, structures: Sequence[Structure]) -> npt.NDArray[np.int64]:
    """Pixels of each structure in each slice: (N, slices)."""
    return np.stack([(case.labels == each.label).sum(axis=(1, 2)) for each in structures])


def _extents(support: Sequence[SupportStack], areas: Sequence[npt.NDArray]) -> StructureExtents:
    spacings = [case.slicing.slice_spacing for case in support]
    return StructureExtents.from_support(areas, spacings, [scale_of(case) for case in support])


def _kept_in_memory(originals: Sequence[SupportSlice]) -> list[SupportSlice]:
    """An even choice, slices with structures three times as often as slices without."""
    full = [s for s in originals if bool(s.present.any())]
    empty = [s for s in originals if not bool(s.present.any())]
    wanted = min(len(full), MEMORY_SLICES - min(len(empty), MEMORY_SLICES // 4))
    return spread(full, wanted) + spread(empty, min(len(empty), MEMORY_SLICES - wanted))
