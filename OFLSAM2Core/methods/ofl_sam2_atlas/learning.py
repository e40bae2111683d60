"""Learning, from top to bottom: what place is worth, the view, the slices, the mapping network, the
head."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np

from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import support_geometries
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases
from OFLSAM2Core.methods.ofl_sam2_atlas.leave_one_out import Earned, leave_one_out
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model, Worth
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.region import region_of_labels
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Intensity, Scan, extent_in_plane, views_for
from OFLSAM2Core.methods.ofl_sam2_atlas.view_learning import Support, learn_view
from OFLSAM2Core.postprocessing.connected_components import adjacent_structures, is_single_component
from OFLSAM2Core.postprocessing.probability_volume import structure_width
from OFLSAM2Core.slice_position.extents import StructureExtents

logger = logging.getLogger(__name__)


def learn_model(ctx: Context, support: Sequence[SupportCase], options: LearnOptions) -> Model:
    """support: with the same value for the same structure in every case."""
    report, timings = ctx.report, ctx.timings
    structures = support[0].structures
    slicings = support_geometries(support, options.slicing_axis)
    scans = [
        Scan(case.name, own.to_slices(case.volume.array), own)
        for case, own in zip(support, slicings, strict=True)
    ]
    labels = [own.to_slices(case.labels) for case, own in zip(support, slicings, strict=True)]
    intensity = Intensity.fit(scans, labels, options.window())

    atlases = Atlases.of_support(scans, labels, structures, intensity)
    earned = Earned.nothing(len(support), len(structures))
    if options.atlas_prior and len(support) > 1:
        with timings.stage("leave one out"):
            on_step = _steps(report, "registering the support cases")
            atlases, earned = leave_one_out(atlases, scans, labels, structures, on_step)
    extents = [extent_in_plane(own, s) for own, s in zip(labels, slicings, strict=True)]
    located = bool(
        earned.place and earned.beyond < 0.25 and earned.centre_error < 0.25 * max(extents)
    )
    views = views_for(
        extents if located else [math.inf],
        earned.centre_error,
        slicings,
        options.oversampled,
        ctx.needed_backbone,
    )
    logger.info(
        "prior %s, located %s, views of %s mm in %s pixels, grey %.0f, %s, beyond %.2f",
        np.round(earned.reliable, 2),
        located,
        ", ".join(f"{view.side:.0f}" for view in views),
        ", ".join(str(view.size) for view in views),
        atlases.grey,
        earned.level_error,
        earned.beyond,
    )
    shown = Support(scans, labels, structures, intensity, earned, located)
    partners = shown.mirrored(views[0]) if options.flip_augmentation else None
    learned = tuple(
        learn_view(ctx, shown, view, partners, options, number, len(views))
        for number, view in enumerate(views)
    )
    areas = [
        np.stack([(own == each.label).sum(axis=(1, 2)) for each in structures]) for own in labels
    ]
    pixels = [math.prod(s.spacing_in_plane) for s in slicings]
    return Model(
        structures=structures,
        orientation=slicings[0].orientation,
        intensity=intensity,
        views=learned,
        atlases=atlases,
        worth=Worth(tuple(earned.reliable.tolist()), located, earned.beyond, earned.level_error),
        extents=StructureExtents.from_support(
            areas,
            [s.slice_spacing for s in slicings],
            [
                region_of_labels(own, s.slice_spacing).scale
                for own, s in zip(labels, slicings, strict=True)
            ],
        ),
        single=tuple(is_single_component(labels, each.label) for each in structures),
        touched=tuple(
            tuple(own) for own in adjacent_structures(labels, [each.label for each in structures])
        ),
        widths=tuple(
            structure_width([case[n] for case in areas], pixels) for n in range(len(structures))
        ),
        mirror=None if partners is None else tuple(int(n) for n in partners),
    )


def _steps(report: ProgressCallback, message: str) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        report(Progress("learn", step, step + 1, message))

    return on_step
