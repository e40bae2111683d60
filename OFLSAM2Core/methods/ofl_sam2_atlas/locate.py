"""Locate: hypotheses of where the structures are, each registered; the one whose prior agrees best
with what features and head predict is taken."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.atlas.isotropic_grid import Point
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Pose, point
from OFLSAM2Core.methods.ofl_sam2_atlas.encoded import EncodedWindow
from OFLSAM2Core.methods.ofl_sam2_atlas.hypotheses import (
    Hypothesis,
    OnStep,
    hypotheses,
    hypotheses_from,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.location import Location, prior_in_window
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model
from OFLSAM2Core.methods.ofl_sam2_atlas.predict import predict_slice, standardised
from OFLSAM2Core.methods.ofl_sam2_atlas.region import Region, region_of
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.postprocessing.probability_volume import as_bytes
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.runtime.timings import Timings

logger = logging.getLogger(__name__)


def locate(
    model: Model, backbone: Backbone, scan: Scan, on_step: OnStep, timings: Timings
) -> Location:
    """The best hypothesis, by its affine maps; `registered` makes its prior exact."""
    found = hypotheses(model.atlases, scan, on_step) if model.reliability.located else []
    if not found:
        return _everywhere(model, backbone, scan, timings)
    locations = [_at(model, backbone, scan, each, timings) for each in found]
    if len(locations) > 1:
        locations = [replace(e, agreement=_agreement_in_few(model, e)) for e in locations]
        logger.info(
            "'%s': %s",
            scan.name,
            "; ".join(f"{e.pose.dissimilarity:.4f} {e.agreement:.2f}" for e in locations if e.pose),
        )
    best = max(locations, key=_score) if len(locations) > 1 else locations[0]
    return _centred(model, scan, best, on_step)


def _score(hypothesis: Location) -> float:
    """Agreement of prior and prediction, times the correlation of the images. Where features say
    little anywhere, the agreement alone would follow whatever they take for the structures: of
    places with 0.20, 0.21 and 0.37 the last was a gland in the wrong place, where the volume looks
    half as much like the atlases."""
    assert hypothesis.pose is not None
    return hypothesis.agreement * (1 - hypothesis.pose.dissimilarity)


def registered(
    model: Model, scan: Scan, location: Location, predicted: dict[int, Tensor], on_step: OnStep
) -> Location:
    """Atlases registered once more, and deformed, by the image and by what was predicted: where the
    image alone misleads, features and head often see the structures. They start from where these
    were predicted; the place from which they were predicted is the other hypothesis, and which of
    the two agrees better with the prediction stays. The window stays, too, so that nothing is
    encoded twice.

    predicted: probabilities of slices in bytes on the image's grid, (N, S, S).
    """
    if location.pose is None or location.prior is None:
        return location
    atlases, which = model.atlases, location.pose.which
    framing = location.encoded.window.framing
    nothing = torch.zeros_like(next(iter(predicted.values())))

    def planes(index: int) -> npt.NDArray:
        return framing.to_grid(predicted.get(index, nothing).float() / 255).numpy()

    candidates = [(location.pose, location.prior)]
    middle = _middle_of(model, scan, location, predicted)
    if middle is not None:
        (pose,) = atlases.pose(scan, [middle], which, on_step, planes)
        prior = atlases.prior_of(scan, pose, deform=False, on_step=on_step, predicted=planes)
        candidates.append((pose, prior))

    def agreement(candidate: tuple[Pose, AtlasPrior]) -> float:
        # In single precision one slice at a time: a thousand slices of 30 structures are 8 GB.
        shown = ((index, own.float() / 255) for index, own in predicted.items())
        return _agreement(candidate[1], shown, framing)

    pose, _ = max(candidates, key=agreement)
    prior = atlases.prior_of(scan, pose, deform=True, on_step=on_step, predicted=planes)
    region = region_of(prior)
    if region is None:
        return replace(location, prior=None)
    first, stop = _slices(model, scan, region)
    areas = np.zeros((len(model.structures), scan.slicing.count), np.int64)
    for index, own in predicted.items():
        areas[:, index] = (own > 127).sum(dim=(1, 2)).numpy()
    scale = model.extents.scale(areas, scan.slicing.slice_spacing, region.scale)
    return replace(location, pose=pose, prior=prior, scale=scale, first=first, stop=stop)


def _middle_of(
    model: Model, scan: Scan, location: Location, predicted: dict[int, Tensor]
) -> Point | None:
    """Where the middle of the atlases' grid belongs, mm, by the structures as they were predicted;
    None where nothing was."""
    mass, at = 0.0, np.zeros(3)
    framing = location.encoded.window.framing
    for index, own in predicted.items():
        there = own.amax(dim=0).numpy() > 127
        if there.any():
            rows, columns = np.nonzero(there)
            row, column = framing.point_on_slice(rows.mean() + 0.5, columns.mean() + 0.5)
            at += len(rows) * np.array([index, row - 0.5, column - 0.5])
            mass += len(rows)
    if mass == 0:
        return None
    return point(at / mass * np.array(scan.slicing.steps) - np.array(model.atlases.centre))


def _agreement(
    prior: AtlasPrior, predicted: Iterable[tuple[int, Tensor]], framing: Letterbox
) -> float:
    """Dice of both probabilities, mean of the structures. predicted: (N, S, S) in [0, 1] of some
    slices."""
    both = either = torch.zeros(prior.shares.shape[0])
    for index, own in predicted:
        known = prior_in_window(prior, index, framing)
        assert known is not None
        both = both + (known * own).sum(dim=(1, 2))
        either = either + (known.square() + own.square()).sum(dim=(1, 2))
    return float((2 * both / either.clamp(min=1e-6)).mean())


def _agreement_in_few(model: Model, location: Location) -> float:
    """Of a hypothesis's prior and of what features and head say by themselves in a few slices: Dice
    of both probabilities, mean of the structures that the prior has there."""
    few = location.statistics_slices[:: max(1, len(location.statistics_slices) // 4)]
    assert location.prior is not None
    framing = location.encoded.window.framing
    return _agreement(location.prior, _by_features(model, location, few).items(), framing)


def _by_features(model: Model, location: Location, indices: Sequence[int]) -> dict[int, Tensor]:
    """Probabilities (N, S, S) of some slices, without prior."""
    seen = standardised(location.encoded, location.encoded.statistics(indices))
    return {index: predict_slice(model, seen(index), None, None) for index in indices}


def _centred(model: Model, scan: Scan, location: Location, on_step: OnStep) -> Location:
    """The place, or one beside it in its slices: where features and head see the structures by
    themselves; which of both priors agrees better with that. A prostate was located 25 mm beside
    the gland, where no feature saw it, and registration did not find back from there."""
    assert location.pose is not None and location.prior is not None
    seen = _by_features(model, location, location.statistics_slices)
    middle = _middle_of(model, scan, location, {n: as_bytes(own) for n, own in seen.items()})
    if middle is None:
        return location
    start = location.pose.middle[0], middle[1], middle[2]
    found = hypotheses_from(model.atlases, scan, [start], location.pose.which, on_step)
    if not found:
        return location
    framing = location.encoded.window.framing
    as_it_is = replace(location, agreement=_agreement(location.prior, seen.items(), framing))
    first, stop = _slices(model, scan, found[0].region)
    beside = replace(
        location,
        pose=found[0].pose,
        prior=found[0].prior,
        scale=found[0].region.scale,
        first=first,
        stop=stop,
        statistics_slices=_statistics_slices(scan, found[0].region),
        agreement=_agreement(found[0].prior, seen.items(), framing),
    )
    return max((as_it_is, beside), key=_score)


def _at(
    model: Model, backbone: Backbone, scan: Scan, hypothesis: Hypothesis, timings: Timings
) -> Location:
    region = hypothesis.region
    first, stop = _slices(model, scan, region)
    window = model.view.window(scan, region.centre, _held(scan, region), model.intensity)
    encoded = EncodedWindow(backbone, window, timings)
    return Location(
        encoded,
        first,
        stop,
        _statistics_slices(scan, region),
        region.scale,
        hypothesis.prior,
        hypothesis.pose,
    )


def _held(scan: Scan, region: Region) -> tuple[int, int]:
    """The slices of a region that the volume has: the first, and the one behind the last."""
    return max(region.first, 0), min(region.stop, scan.slicing.count)


def _statistics_slices(scan: Scan, region: Region) -> tuple[int, ...]:
    return tuple(_spread_over(*_held(scan, region), config.STATISTICS_SLICES))


def _slices(model: Model, scan: Scan, region: Region) -> tuple[int, int]:
    """The slices of a region with room beyond its ends."""
    room = (config.EXTENT_ROOM + model.reliability.beyond) * (region.stop - region.first)
    more = max(1, round(room))
    return max(region.first - more, 0), min(region.stop + more, scan.slicing.count)


def _everywhere(model: Model, backbone: Backbone, scan: Scan, timings: Timings) -> Location:
    """All of a volume, without prior and position."""
    count = scan.slicing.count
    rows, columns = scan.slicing.slice_shape
    view = model.view.covering(scan.slicing)
    if view.side / view.size > 1.01 * model.view.side / model.view.size:
        logger.warning("'%s' is so large that it is predicted at a coarser scale.", scan.name)
    window = view.window(scan, (rows / 2, columns / 2), (0, count), model.intensity)
    statistics_slices = tuple(_spread_over(0, count, config.STATISTICS_SLICES))
    encoded = EncodedWindow(backbone.at_size(view.image_size), window, timings)
    return Location(encoded, 0, count, statistics_slices, None, None, None)


def _spread_over(first: int, stop: int, count: int) -> list[int]:
    """So many slices of a range, evenly, or all of them."""
    wanted = min(count, stop - first)
    at = first + (np.arange(wanted) + 0.5) * (stop - first) / max(wanted, 1) - 0.5
    return sorted({round(float(each)) for each in at})
