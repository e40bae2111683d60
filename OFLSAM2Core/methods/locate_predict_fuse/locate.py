"""Locate: hypotheses of where the structures are, each registered and predicted; what the features
and the head say decides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.methods.locate_predict_fuse import config
from OFLSAM2Core.methods.locate_predict_fuse.atlases import Pose
from OFLSAM2Core.methods.locate_predict_fuse.encoded import EncodedWindow, spread_over
from OFLSAM2Core.methods.locate_predict_fuse.model import Model
from OFLSAM2Core.methods.locate_predict_fuse.places import likely_places
from OFLSAM2Core.methods.locate_predict_fuse.region import Region, region_of
from OFLSAM2Core.methods.locate_predict_fuse.scan import Scan
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.slice_position.regression import PositionScale

logger = logging.getLogger(__name__)

OnStep = Callable[[int], None]
Standardised = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Location:
    """Where a volume is predicted. first, stop: slices that are predicted in any case. scale: slice
    positions, None where they are not known. prior: on the atlases' grid, None where place does not
    help or registration failed. agreement: of prior and prediction without it, by structure."""

    encoded: EncodedWindow
    first: int
    stop: int
    probes: tuple[int, ...]
    scale: PositionScale | None
    prior: AtlasPrior | None
    pose: Pose | None
    agreement: float = float("nan")
    hypotheses: int = 1


def locate(model: Model, backbone: Backbone, scan: Scan, on_step: OnStep) -> Location:
    """The best hypothesis, by its affine maps; `deformed` makes its prior exact."""
    if not model.worth.located:
        return _everywhere(model, backbone, scan)
    which = range(model.atlases.count)
    places = likely_places(model.atlases, scan, which)
    poses = _distinct(model, model.atlases.pose(scan, places, which, on_step))
    found = []
    for pose in poses:
        prior = model.atlases.prior_of(scan, pose, deform=False, on_step=on_step)
        region = region_of(prior)
        if region is None or region.stop <= 0 or region.first >= scan.slicing.count:
            continue
        found.append(_at(model, backbone, scan, pose, prior, region))
    if not found:
        return _everywhere(model, backbone, scan)
    if len(found) > 1:
        found = [replace(each, agreement=agreement(model, each)) for each in found]
        logger.info(
            "'%s': %s",
            scan.name,
            "; ".join(f"{e.pose.unlike:.4f} {e.agreement:.2f}" for e in found if e.pose),
        )
    best = max(found, key=lambda each: each.agreement if len(found) > 1 else 0.0)
    return replace(best, hypotheses=len(found))


def deformed(model: Model, scan: Scan, location: Location, on_step: OnStep) -> Location:
    """The same with atlases deformed to the volume. The window stays, so that nothing is encoded
    twice; slices and their positions are found anew."""
    if location.pose is None:
        return location
    prior = model.atlases.prior_of(scan, location.pose, deform=True, on_step=on_step)
    region = region_of(prior)
    if region is None:
        return replace(location, prior=None)
    first, stop = _slices(model, scan, region)
    return replace(location, prior=prior, scale=region.scale, first=first, stop=stop)


def agreement(model: Model, location: Location) -> float:
    """Of a hypothesis's prior and of what features and head say by themselves, without prior and
    position: Dice of both probabilities in a few slices, mean of the structures that the prior has
    there."""
    from OFLSAM2Core.methods.locate_predict_fuse.predict import predict_slice, standardised

    probes = location.probes[:: max(1, len(location.probes) // 4)]
    seen = standardised(location.encoded, location.encoded.statistics(probes))
    both = either = torch.zeros(len(model.structures))
    for index in probes:
        said = prior_in_window(location.prior, index, location.encoded.window.framing)
        read = predict_slice(model, seen(index), None, None)
        assert said is not None
        both = both + (said * read).sum(dim=(1, 2))
        either = either + (said.square() + read.square()).sum(dim=(1, 2))
    return float((2 * both / either.clamp(min=1e-6)).mean())


def prior_in_window(prior: AtlasPrior | None, index: int, framing: Letterbox) -> Tensor | None:
    """What the atlases say of a slice, on the image's grid, (N, S, S); 0 beside the slice."""
    if prior is None:
        return None
    top, bottom, left, right = framing.region
    row, row_end, column, column_end = framing.box
    at = torch.arange(framing.size) + 0.5
    rows = top + (at - row) * (bottom - top) / (row_end - row) - 0.5
    columns = left + (at - column) * (right - left) / (column_end - column) - 0.5
    steps, middle = prior.slicing.steps, prior.middle
    places = torch.stack(
        torch.meshgrid(
            torch.tensor([index * steps[0] - middle[0]]),
            rows * steps[1] - middle[1],
            columns * steps[2] - middle[2],
            indexing="ij",
        ),
        dim=-1,
    )
    found = prior.grid.at(prior.shares[None], places[None].float(), "zeros")[0, :, 0]
    inside = torch.zeros(framing.size, framing.size)
    inside[row:row_end, column:column_end] = 1
    return found * inside


def _at(
    model: Model, backbone: Backbone, scan: Scan, pose: Pose, prior: AtlasPrior, region: Region
) -> Location:
    first, stop = _slices(model, scan, region)
    held = (max(region.first, 0), min(region.stop, scan.slicing.count))
    window = model.view.window(scan, region.centre, held, model.intensity)
    probes = tuple(spread_over(*held, config.PROBES))
    return Location(EncodedWindow(backbone, window), first, stop, probes, region.scale, prior, pose)


def _slices(model: Model, scan: Scan, region: Region) -> tuple[int, int]:
    """With room beyond the located ends."""
    room = (config.EXTENT_ROOM + model.worth.beyond) * (region.stop - region.first)
    more = max(1, round(room))
    return max(region.first - more, 0), min(region.stop + more, scan.slicing.count)


def _everywhere(model: Model, backbone: Backbone, scan: Scan) -> Location:
    """All of a volume, without prior and position."""
    count = scan.slicing.count
    rows, columns = scan.slicing.slice_shape
    window = model.view.window(scan, (rows / 2, columns / 2), (0, count), model.intensity)
    probes = tuple(spread_over(0, count, config.PROBES))
    return Location(EncodedWindow(backbone, window), 0, count, probes, None, None, None)


def _distinct(model: Model, poses: Sequence[Pose]) -> list[Pose]:
    """The most similar of those that lie at the same place, at most MOST_HYPOTHESES."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda each: each.unlike):
        apart = [float(np.linalg.norm(np.subtract(pose.centre, k.centre))) for k in kept]
        if all(each > config.SAME_PLACE * model.atlases.size for each in apart):
            kept.append(pose)
    return kept[: config.MOST_HYPOTHESES]
