"""One volume, in three steps: locate, predict, fuse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.ofl_sam2_atlas.fuse import Fused, fuse, labels_and_confidence
from OFLSAM2Core.methods.ofl_sam2_atlas.locate import locate, registered
from OFLSAM2Core.methods.ofl_sam2_atlas.location import Location
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model
from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.predict import predict, predict_again
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.postprocessing.probability_volume import as_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CanonicalResult:
    """A segmented canonical slice: labels and confidence uint8 (H, W), S_cf by structure name."""

    index: int
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    scores: dict[str, float]
    revision: int = 0


@dataclass(frozen=True, eq=False)
class Segmented:
    """What a segmented volume leaves behind, to go on from when it is corrected. location: with the
    encoded slices. predicted: probabilities of slices in bytes on the image's grid, (N, S, S).
    fused: what came of them."""

    location: Location
    predicted: dict[int, Tensor]
    fused: Fused


def segment_scan(
    model: Model,
    ctx: Context,
    scan: Scan,
    options: SegmentOptions,
    keep: Callable[[Segmented], None] = lambda segmented: None,
) -> Iterator[CanonicalResult]:
    """Slices as they are ready; those that fusing changes once more, revision 1. keep: is given
    what the volume leaves behind, before the last slices."""
    report, timings = ctx.report, ctx.timings
    slicing = scan.slicing
    count = slicing.count
    backbone = ctx.needed_backbone.at_size(model.view.image_size)

    # Locate.
    def on_step(step: int) -> None:
        report(Progress("segment", 0, count, "registering the support cases"))

    with timings.stage("locate"):
        location = locate(model, backbone, scan, on_step, timings)
    if not options.atlas_prior:
        location = replace(location, prior=None)

    # Predict.
    framing = location.encoded.window.framing
    predicted: dict[int, Tensor] = {}
    again: dict[int, Tensor] = {}
    slices = predict(model, location, count, slicing.slice_spacing)
    while True:
        with timings.stage("predict"):
            step = next(slices, None)
        if step is None:
            break
        index, probabilities = step
        predicted[index] = as_bytes(probabilities)
        labels, confidence, scores = labels_and_confidence(
            model, framing.to_grid(probabilities), 1.5, None
        )
        yield CanonicalResult(index, labels, confidence, scores)
        report(Progress("segment", len(predicted), count))

    with timings.stage("register"):
        location = registered(model, scan, location, predicted, on_step)
    if location.prior is not None:
        with timings.stage("predict"):
            wanted = sorted({*predicted, *range(location.first, location.stop)})
            for index, probabilities in predict_again(
                model, location, wanted, slicing.slice_spacing
            ):
                again[index] = as_bytes(probabilities)

    # Fuse.
    with timings.stage("fuse"):
        shown_before = set(predicted)
        predicted = again or predicted  # What was predicted first is not needed any more.
        fused = fuse(model, scan, location, predicted, options.intensity_refinement)
    keep(Segmented(location, predicted, fused))
    absent = [
        structure.name
        for structure, areas in zip(model.structures, fused.volume.areas(), strict=True)
        if not areas.any()
    ]
    if absent:
        logger.warning("Nothing was found in '%s' of: %s.", scan.name, ", ".join(absent))
    for result in results_of(model, scan, location, fused):
        yield replace(result, revision=1 if result.index in shown_before else 0)


def results_of(
    model: Model, scan: Scan, location: Location, fused: Fused
) -> Iterator[CanonicalResult]:
    """Every slice of a volume as it was put together."""
    top, bottom, left, right = location.encoded.window.framing.region
    for index in range(scan.slicing.count):
        own = torch.zeros(len(model.structures), *scan.slicing.slice_shape)
        if 0 <= index - fused.first < fused.volume.count:
            own[:, top:bottom, left:right] = fused.volume.slice(
                index - fused.first, torch.device("cpu")
            )
        sure = torch.from_numpy(np.ascontiguousarray(fused.sure[:, index])).float()
        labels, confidence, scores = labels_and_confidence(model, own, fused.temperature, sure)
        yield CanonicalResult(index, labels, confidence, scores)
