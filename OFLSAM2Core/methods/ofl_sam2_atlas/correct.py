"""Correction of a segmented volume: learning from corrected slices, and predicting again from the
kept features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.corrected import Corrected
from OFLSAM2Core.methods.ofl_sam2_atlas.fuse import fuse
from OFLSAM2Core.methods.ofl_sam2_atlas.location import Location, prior_in_window
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model
from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.pipeline import (
    CanonicalResult,
    Segmented,
    results_of,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.predict import predict_again, standardised
from OFLSAM2Core.methods.ofl_sam2_atlas.relearn import (
    CorrectedSlice,
    UncorrectedSlice,
    relearned,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.methods.ofl_sam2_atlas.spread import (
    errors_of,
    prior_factors,
    reach_of,
    spread,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.support import spread as evenly
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume, as_bytes


@dataclass(frozen=True, eq=False)
class Step:
    """model: with what was learned. results: every slice, predicted again."""

    model: Model
    results: Iterator[CanonicalResult]


def correct_scan(
    model: Model,
    ctx: Context,
    scan: Scan,
    options: SegmentOptions,
    segmented: Segmented,
    corrected: Corrected,
) -> Step:
    """model: as the support taught it; what was corrected in all rounds is learned from there, so
    that the order of rounds does not matter. Voxels that are known have the labels that they were
    given, with full confidence."""
    report, timings = ctx.report, ctx.timings
    location = segmented.location
    seen = standardised(location.encoded, location.encoded.statistics(location.statistics_slices))
    framing = location.encoded.window.framing
    spacing = scan.slicing.slice_spacing
    slices = []
    for index in corrected.slices:
        embedding, detail = seen(index)
        masks, known = corrected.in_window(index, model.structures, framing)
        slice_position = location.slice_position_of(index, spacing)
        prior = prior_in_window(location.prior, index, framing)
        slices.append(CorrectedSlice(embedding, detail, masks, known, slice_position, prior))
    # Also what is not known of slices of which some voxels are: these were all wrong, and learned
    # from alone they say that everything is.
    whole = np.flatnonzero(corrected.known.all(axis=(1, 2))).tolist()
    rest = sorted(set(segmented.predicted) - set(whole))
    others = []
    for index in evenly(rest, config.OTHERS_KEPT):
        embedding, detail = seen(index)
        _, known = corrected.in_window(index, model.structures, framing)
        others.append(
            UncorrectedSlice(
                model.mapping.features(embedding[None]),
                detail,
                segmented.predicted[index].float() / 255,
                location.slice_position_of(index, spacing),
                prior_in_window(location.prior, index, framing),
                known,
            )
        )
    with timings.stage("learn"), ctx.seeded():
        new = relearned(
            model,
            slices,
            others,
            lambda done, total: report(Progress("learn", done, total)),
        )
    return Step(new, _predicted_again(new, ctx, scan, options, segmented, location, corrected))


def _predicted_again(
    model: Model,
    ctx: Context,
    scan: Scan,
    options: SegmentOptions,
    segmented: Segmented,
    location: Location,
    corrected: Corrected,
) -> Iterator[CanonicalResult]:
    report, timings = ctx.report, ctx.timings
    spacing, count = scan.slicing.slice_spacing, scan.slicing.count
    framing = location.encoded.window.framing
    wanted = _wanted(segmented, corrected, count)
    predicted = {}
    with timings.stage("predict"):
        for index, probabilities in predict_again(model, location, wanted, spacing):
            masks, known = corrected.in_window(index, model.structures, framing)
            predicted[index] = as_bytes(torch.where(known > 0.5, masks, probabilities))
            report(Progress("segment", len(predicted), len(wanted)))
    with timings.stage("fuse"):
        factors = prior_factors(segmented.fused, framing.region, corrected, model.structures)

        def corrected_nearby(volume: ProbabilityVolume, first: int) -> ProbabilityVolume:
            errors = errors_of(volume, first, framing.region, corrected, model.structures)
            return spread(volume, first, errors, reach_of(_height(location, spacing), spacing))

        fused = fuse(
            model,
            scan,
            location,
            predicted,
            options.intensity_refinement,
            corrected_nearby,
            factors,
        )
    for result in results_of(model, scan, location, fused):
        known, truth = corrected.known[result.index], corrected.labels[result.index]
        yield replace(
            result,
            labels=np.where(known, truth, result.labels).astype(np.uint8),
            confidence=np.where(known, 255, result.confidence).astype(np.uint8),
        )


def _wanted(segmented: Segmented, corrected: Corrected, count: int) -> list[int]:
    """Slices that were predicted, and those up to where a person labelled something."""
    labelled = np.flatnonzero((corrected.known & (corrected.labels > 0)).any(axis=(1, 2))).tolist()
    there = [*segmented.predicted, *labelled]
    return list(range(max(min(there), 0), min(max(there) + 1, count)))


def _height(location: Location, spacing: float) -> float:
    """Height of the structures, mm."""
    if location.scale is not None:
        return 2 * location.scale.half
    return (location.stop - location.first) * spacing
