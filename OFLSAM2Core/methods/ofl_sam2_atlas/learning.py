"""Learning, from top to bottom: leave-one-out, the view, the slices, the mapping network, the
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
from OFLSAM2Core.methods.common.bilateral_symmetry import symmetric_label_map
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Head
from OFLSAM2Core.methods.ofl_sam2_atlas.kept_slices import KeptSlices, TrainingSlice
from OFLSAM2Core.methods.ofl_sam2_atlas.leave_one_out import LeaveOneOut, leave_one_out
from OFLSAM2Core.methods.ofl_sam2_atlas.mapping import fit_mapping
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model, Reliability
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.region import region_of_labels
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Intensity, Scan, View, extent_in_plane
from OFLSAM2Core.methods.ofl_sam2_atlas.support import SupportWindow, encode_support
from OFLSAM2Core.methods.ofl_sam2_atlas.training import TrainingSet, train
from OFLSAM2Core.postprocessing.connected_components import adjacent_structures, is_single_component
from OFLSAM2Core.postprocessing.probability_volume import structure_width
from OFLSAM2Core.preprocessing.support_stack import SupportStack
from OFLSAM2Core.slice_position.extents import StructureExtents

logger = logging.getLogger(__name__)


def learn_model(ctx: Context, support: Sequence[SupportCase], options: LearnOptions) -> Model:
    """Learn from support cases in which a structure has the same value everywhere."""
    rng, report, timings = ctx.rng(), ctx.report, ctx.timings
    structures = support[0].structures
    slicings = support_geometries(support, options.slicing_axis)
    scans = [Scan.of(case.volume, own) for case, own in zip(support, slicings, strict=True)]
    labels = [own.to_slices(case.labels) for case, own in zip(support, slicings, strict=True)]
    intensity = Intensity.fit(scans, labels, options.window())

    atlases = Atlases.of_support(scans, labels, structures, intensity)
    held_out = LeaveOneOut.not_done(len(support), len(structures))
    if options.atlas_prior and len(support) > 1:
        with timings.stage("leave one out"):
            on_step = _steps(report, "registering the support cases")
            atlases, held_out = leave_one_out(atlases, scans, labels, structures, on_step)
    extents = [extent_in_plane(own, s) for own, s in zip(labels, slicings, strict=True)]
    located = bool(
        held_out.has_prior
        and held_out.beyond < 0.25
        and held_out.centre_error < 0.25 * max(extents)
    )
    view = View.fit(
        extents if located else [math.inf],
        held_out.centre_error,
        slicings,
        options.magnification,
        ctx.needed_backbone,
    )
    logger.info(
        "prior %s, located %s, view %.0f mm in %d pixels, grey %.0f, %s, beyond %.2f",
        np.round(held_out.dice, 2),
        located,
        view.side,
        view.size,
        atlases.grey,
        held_out.position_noise,
        held_out.beyond,
    )
    backbone = ctx.needed_backbone.at_size(view.image_size)
    windows = []
    for scan, own, prior in zip(scans, labels, held_out.priors, strict=True):
        region = region_of_labels(own, scan.slicing.slice_spacing)
        slices = (region.first, region.stop) if located else (0, scan.slicing.count)
        window = view.window(scan, region.centre, slices, intensity)
        windows.append(
            SupportWindow(window, own, region.scale, scan.slicing.slice_spacing, prior, slices)
        )
    partners = None
    if options.flip_augmentation and len(support) > 1:
        shown = [
            SupportStack(w.window.name, w.window, s, w.labels)
            for w, s in zip(windows, slicings, strict=True)
        ]
        partners = symmetric_label_map(shown, structures)
    with timings.stage("encode"):
        encoded = encode_support(
            backbone,
            windows,
            structures,
            options.encoded_slices,
            rng,
            lambda done, total: report(Progress("encode", done, total)),
            partners,
        )
    with timings.stage("mapping network"):
        place = located and held_out.has_prior
        mapping, without, equations, balance = fit_mapping(
            encoded, place, held_out.position_noise, rng
        )
    with timings.stage("train"):
        head = Head(mapping.features.basis.shape[0], len(structures))
        data = TrainingSet(
            [TrainingSlice.of(each, mapping.features) for each in encoded], without, place
        )
        train(
            head,
            data,
            options.training_steps,
            options.learning_rate,
            held_out.position_noise,
            rng,
            lambda done, total, text: report(Progress("learn", done, total, text)),
            ctx.device,
        )
    areas = [
        np.stack([(own == each.label).sum(axis=(1, 2)) for each in structures]) for own in labels
    ]
    pixels = [math.prod(s.spacing_in_plane) for s in slicings]
    return Model(
        structures=structures,
        orientation=slicings[0].orientation,
        intensity=intensity,
        view=view,
        atlases=atlases,
        reliability=Reliability(
            tuple(held_out.dice.tolist()), located, held_out.beyond, held_out.position_noise
        ),
        extents=StructureExtents.from_support(
            areas, [s.slice_spacing for s in slicings], [w.scale for w in windows]
        ),
        mapping=mapping,
        head=head,
        equations=equations,
        balance=balance,
        single=tuple(is_single_component(labels, each.label) for each in structures),
        touched=tuple(
            tuple(own) for own in adjacent_structures(labels, [each.label for each in structures])
        ),
        widths=tuple(
            structure_width([case[n] for case in areas], pixels) for n in range(len(structures))
        ),
        mirror=None if partners is None else tuple(int(n) for n in partners),
        kept=KeptSlices.of(encoded, mapping.features, without),
    )


def _steps(report: ProgressCallback, message: str) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        report(Progress("learn", step, step + 1, message))

    return on_step
