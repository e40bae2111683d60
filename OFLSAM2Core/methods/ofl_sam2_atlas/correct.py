"""A segmented volume, corrected: learned from, and predicted anew from the kept features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.corrected import Corrected
from OFLSAM2Core.methods.ofl_sam2_atlas.encoded import EncodedWindow
from OFLSAM2Core.methods.ofl_sam2_atlas.fuse import fuse
from OFLSAM2Core.methods.ofl_sam2_atlas.locate import Location, prior_in_window
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model, ViewModel
from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.pipeline import (
    CanonicalResult,
    Segmented,
    results_of,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.predict import (
    predict_again,
    predict_slice,
    standardised,
)
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
    """model: with what was learned. results: every slice anew."""

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
    location, spacing = segmented.location, scan.slicing.slice_spacing
    rest = sorted(set(segmented.predicted) - set(corrected.slices))
    others = evenly(rest, config.OTHERS_KEPT)
    views = list(model.views)
    with ctx.timings.stage("learn"), ctx.seeded():
        # Where the volume was predicted as a whole, by the nearest view alone.
        for number, encoded in enumerate(location.windows):

            def on_step(done: int, total: int, before: int = number) -> None:
                steps = len(location.windows) * total
                ctx.report(Progress("learn", before * total + done, steps))

            shown = _ShownView(model.views[number], encoded, location, spacing)
            slices = [shown.corrected(index, corrected, model) for index in corrected.slices]
            unchanged = [shown.uncorrected(index) for index in others]
            views[number] = relearned(model.views[number], slices, unchanged, on_step)
    new = replace(model, views=tuple(views))
    return Step(new, _anew(new, ctx, scan, options, segmented, location, corrected))


class _ShownView:
    """A segmented volume's slices as one view shows them."""

    def __init__(
        self, own: ViewModel, encoded: EncodedWindow, location: Location, spacing: float
    ) -> None:
        self._own, self._location, self._spacing = own, location, spacing
        self._framing = encoded.window.framing
        self._seen = standardised(encoded, location.probes)

    def corrected(self, index: int, corrected: Corrected, model: Model) -> CorrectedSlice:
        embedding, detail = self._seen(index)
        masks, known = corrected.in_window(index, model.structures, self._framing)
        return CorrectedSlice(embedding, detail, masks, known, *self._place(index))

    def uncorrected(self, index: int) -> UncorrectedSlice:
        embedding, detail = self._seen(index)
        level, prior = self._place(index)
        predicted = predict_slice(self._own, (embedding, detail), prior, level)
        components = self._own.mapping.features(embedding[None])
        return UncorrectedSlice(components, detail, predicted, level, prior)

    def _place(self, index: int) -> tuple[float | None, Tensor | None]:
        """Slice position and prior."""
        location = self._location
        level = location.level_of(index, self._spacing)
        return level, prior_in_window(location.prior, index, self._framing)


def _anew(
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
    framing = location.framing
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
    """Of the structures, mm."""
    if location.scale is not None:
        return 2 * location.scale.half
    return (location.stop - location.first) * spacing
