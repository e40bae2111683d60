"""Adds a support case to a learned task: its atlas and its normal equations are added, and the
head's training goes on from where it was."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.mapping_network import NormalEquations
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases, atlas_of, box_of, point
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Mapping
from OFLSAM2Core.methods.ofl_sam2_atlas.kept_slices import TrainingSlice
from OFLSAM2Core.methods.ofl_sam2_atlas.leave_one_out import best_pose, overlap
from OFLSAM2Core.methods.ofl_sam2_atlas.mapping import equations_of
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.region import region_of_labels
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.methods.ofl_sam2_atlas.support import SupportWindow, encode_support
from OFLSAM2Core.methods.ofl_sam2_atlas.training import TrainingSet, train
from OFLSAM2Core.postprocessing.connected_components import adjacent_structures, is_single_component
from OFLSAM2Core.postprocessing.probability_volume import structure_width
from OFLSAM2Core.slice_position.extents import StructureExtents


def extended(ctx: Context, model: Model, case: SupportCase, options: LearnOptions) -> Model:
    """The model with one more case, which has the task's structures. options: those that the task
    was learned with. The view and the features' components stay as they are. The head sees a
    quarter of the slices and steps that learning from nothing takes; half of what it sees are
    slices that the task has kept."""
    rng, report, timings = ctx.rng(), ctx.report, ctx.timings
    structures = model.structures
    slicing = SliceGeometry.for_volume(case.volume, model.orientation)
    scan = Scan.of(case.volume, slicing)
    labels = slicing.to_slices(case.labels)
    count = model.atlases.count
    prior: AtlasPrior | None = None
    reliability = model.reliability
    with timings.stage("leave one out"):
        if model.mapping.features.with_places:

            def on_step(step: int) -> None:
                report(Progress("learn", step, step + 1, "registering the case"))

            which = range(min(count, config.OTHERS))
            _, pose = best_pose(model.atlases, scan, labels, structures, which, on_step)
            prior = model.atlases.prior_of(scan, pose, deform=True, on_step=on_step)
            own = overlap(prior, labels, structures)
            dice = tuple(_mean(np.array(reliability.dice), own, count).tolist())
            reliability = replace(reliability, dice=dice)
        atlases = with_case(model.atlases, scan, labels, structures)
    region = region_of_labels(labels, slicing.slice_spacing)
    slices = (region.first, region.stop) if reliability.located else (0, slicing.count)
    rows, columns = slicing.slice_shape
    centre = region.centre if reliability.located else (rows / 2, columns / 2)
    window = model.view.window(scan, centre, slices, model.intensity)
    own_window = SupportWindow(window, labels, region.scale, slicing.slice_spacing, prior, slices)
    with timings.stage("encode"):
        encoded = encode_support(
            ctx.needed_backbone.at_size(model.view.image_size),
            [own_window],
            structures,
            options.encoded_slices // (count + 1),
            rng,
            lambda done, total: report(Progress("encode", done, total)),
            None if model.mirror is None else np.array(model.mirror),
            count + 1,
        )
    features = model.mapping.features
    with timings.stage("mapping network"):
        equations = equations_of(
            encoded, features, model.balance, model.reliability.position_noise, rng
        )
        summed = _mean_equations(model.equations, equations, count)
        mapping = Mapping(features, summed.closed_form())
    number = max(model.kept.without, default=count - 1) + 1
    new = [replace(TrainingSlice.of(each, features), case=number) for each in encoded]
    without = {n: Mapping(features, tau) for n, tau in model.kept.without.items()}
    without[number] = model.mapping
    # The new case's slices are as many as those of all others together would be: every second.
    old = model.kept.slices
    shown = [*new, *(old * math.ceil(len(new) / max(len(old), 1)))[: len(new) * bool(old)]]
    with timings.stage("train"):
        head = copy.deepcopy(model.head)
        train(
            head,
            TrainingSet(shown, without, features.with_places),
            max(options.training_steps // config.EXTENDING, 1),
            options.learning_rate * config.EXTENDING_RATE,
            model.reliability.position_noise,
            rng,
            lambda done, total, text: report(Progress("learn", done, total, text)),
            ctx.device,
        )
    areas = np.stack([(labels == each.label).sum(axis=(1, 2)) for each in structures])
    pixel = math.prod(slicing.spacing_in_plane)
    extents = StructureExtents.from_support([areas], [slicing.slice_spacing], [region.scale])
    touched = adjacent_structures([labels], [each.label for each in structures])
    originals = [each for each, whole in zip(new, encoded, strict=True) if whole.copy == 0]
    return replace(
        model,
        atlases=atlases,
        reliability=reliability,
        extents=StructureExtents(_mean(model.extents.ends, extents.ends, count)),
        mapping=mapping,
        head=head,
        equations=summed,
        single=tuple(
            before and is_single_component([labels], each.label)
            for before, each in zip(model.single, structures, strict=True)
        ),
        touched=tuple(
            tuple(sorted({*before, *now}))
            for before, now in zip(model.touched, touched, strict=True)
        ),
        widths=tuple(
            max(before, structure_width([own], [pixel]))
            for before, own in zip(model.widths, areas, strict=True)
        ),
        kept=model.kept.and_of(number, originals, model.mapping.tau),
    )


def with_case(
    atlases: Atlases, scan: Scan, labels: npt.NDArray, structures: Sequence[Structure]
) -> Atlases:
    """The atlases with one more, on the same grid. labels: canonical slices."""
    image, covered, place = atlas_of(atlases.grid, scan, labels, structures, atlases.intensity)
    low, high = box_of(labels, scan.slicing.steps)
    extent = _mean(np.array(atlases.extent), high - low, atlases.count)
    return replace(
        atlases,
        images=torch.cat([atlases.images, image[None]]),
        labels=torch.cat([atlases.labels, covered[None]]),
        has=torch.cat([atlases.has, (covered.flatten(1).amax(dim=1) > 0)[None]]),
        place=torch.cat([atlases.place, place[None]]),
        extent=point(extent),
    )


def _mean(before: npt.NDArray, own: npt.NDArray, count: int) -> npt.NDArray[np.float64]:
    """Mean over `count` cases before and one more; where one of both is NaN, the other."""
    together = (count * before + own) / (count + 1)
    return np.where(np.isnan(before), own, np.where(np.isnan(own), before, together))


def _mean_equations(before: NormalEquations, own: NormalEquations, count: int) -> NormalEquations:
    return NormalEquations(
        (count * before.gram + own.gram) / (count + 1),
        (count * before.moment + own.moment) / (count + 1),
    )
