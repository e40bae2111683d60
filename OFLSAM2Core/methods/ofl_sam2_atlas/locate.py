"""Locate: hypotheses of where the structures are, each registered and predicted; what the features
and the head say decides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from OFLSAM2Core.atlas.isotropic_grid import Point
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Pose, point
from OFLSAM2Core.methods.ofl_sam2_atlas.encoded import EncodedWindow, spread_over
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model
from OFLSAM2Core.methods.ofl_sam2_atlas.places import likely_places
from OFLSAM2Core.methods.ofl_sam2_atlas.region import Region, region_of
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.slice_position.regression import PositionScale

logger = logging.getLogger(__name__)

OnStep = Callable[[int], None]
Standardised = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Location:
    """Where a volume is predicted. windows: one for each view, the nearest first. first, stop:
    slices that are predicted in any case. scale: slice positions, None where they are not known.
    prior: on the atlases' grid, None where place does not help or registration failed. agreement:
    of prior and prediction without it, by structure."""

    windows: tuple[EncodedWindow, ...]
    first: int
    stop: int
    probes: tuple[int, ...]
    scale: PositionScale | None
    prior: AtlasPrior | None
    pose: Pose | None
    agreement: float = float("nan")

    @property
    def framing(self) -> Letterbox:
        """Of the nearest window, on whose image all views are put together."""
        return self.windows[0].window.framing

    def keep_at_most(self, bytes_: int) -> None:
        """Forget encoded slices beyond so many bytes."""
        for each in self.windows:
            each.keep_at_most(bytes_ // len(self.windows))

    def level_of(self, index: int, spacing: float) -> float | None:
        """The slice position of a canonical slice; None where it is not known. spacing: mm between
        slices."""
        return None if self.scale is None else self.scale.level(index * spacing)


def locate(model: Model, backbone: Backbone, scan: Scan, on_step: OnStep) -> Location:
    """The best hypothesis, by its affine maps; `registered` makes its prior exact."""
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
    return max(found, key=_score) if len(found) > 1 else found[0]


def _score(hypothesis: Location) -> float:
    """Agreement of prior and prediction, times the correlation of the images. Where features say
    little anywhere, the agreement alone would follow whatever they take for the structures: of
    places with 0.20, 0.21 and 0.37 the last was a gland in the wrong place, where the volume looks
    half as much like the atlases."""
    assert hypothesis.pose is not None
    return hypothesis.agreement * (1 - hypothesis.pose.unlike)


def registered(
    model: Model, scan: Scan, location: Location, predicted: dict[int, Tensor], on_step: OnStep
) -> Location:
    """Atlases registered from where the structures were predicted, and deformed: from a start that
    is off by a tenth of a gland they end somewhere else. The place from which they were predicted
    is the other hypothesis; which of the two agrees better with the prediction stays. The window
    stays, too, so that nothing is encoded twice.

    predicted: probabilities of slices in bytes on the image's grid, (N, S, S).
    """
    if location.pose is None or location.prior is None:
        return location
    hypotheses = [(location.pose, location.prior)]
    middle = _middle_of(model, scan, location, predicted)
    if middle is not None:
        (pose,) = model.atlases.pose(scan, [middle], location.pose.which, on_step)
        prior = model.atlases.prior_of(scan, pose, deform=False, on_step=on_step)
        hypotheses.append((pose, prior))
    framing = location.framing
    shown = [(index, own.float() / 255) for index, own in predicted.items()]
    pose, _ = max(hypotheses, key=lambda each: _agreement(each[1], shown, framing))
    prior = model.atlases.prior_of(scan, pose, deform=True, on_step=on_step)
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
    """Of the atlases' grid, so that structures lie in it as they were predicted, mm; None where
    nothing was."""
    mass, at = 0.0, np.zeros(3)
    framing = location.framing
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


def agreement(model: Model, location: Location) -> float:
    """Of a hypothesis's prior and of what the nearest view says by itself, without prior and
    position: Dice of both probabilities in a few slices, mean of the structures that the prior has
    there."""
    from OFLSAM2Core.methods.ofl_sam2_atlas.predict import predict_slice, standardised

    probes = location.probes[:: max(1, len(location.probes) // 4)]
    assert location.prior is not None
    nearest, window = model.views[0], location.windows[0]
    seen = standardised(window, probes)
    predicted = ((index, predict_slice(nearest, seen(index), None, None)) for index in probes)
    return _agreement(location.prior, predicted, location.framing)


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
    windows = tuple(
        EncodedWindow(
            backbone.at_size(own.view.image_size),
            own.view.window(scan, region.centre, held, model.intensity),
        )
        for own in model.views
    )
    probes = tuple(spread_over(*held, config.PROBES))
    return Location(windows, first, stop, probes, region.scale, prior, pose)


def _slices(model: Model, scan: Scan, region: Region) -> tuple[int, int]:
    """With room beyond the located ends."""
    room = (config.EXTENT_ROOM + model.worth.beyond) * (region.stop - region.first)
    more = max(1, round(room))
    return max(region.first - more, 0), min(region.stop + more, scan.slicing.count)


def _everywhere(model: Model, backbone: Backbone, scan: Scan) -> Location:
    """All of a volume by the nearest view, without prior and position."""
    count = scan.slicing.count
    rows, columns = scan.slicing.slice_shape
    nearest = model.views[0].view
    view = nearest.covering(scan.slicing)
    if view.side / view.size > 1.01 * nearest.side / nearest.size:
        logger.warning("'%s' is so large that it is predicted at a coarser scale.", scan.name)
    window = view.window(scan, (rows / 2, columns / 2), (0, count), model.intensity)
    probes = tuple(spread_over(0, count, config.PROBES))
    encoded = EncodedWindow(backbone.at_size(view.image_size), window)
    return Location((encoded,), 0, count, probes, None, None, None)


def _distinct(model: Model, poses: Sequence[Pose]) -> list[Pose]:
    """The most similar of those that lie at the same place, at most MOST_HYPOTHESES."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda each: each.unlike):
        apart = [float(np.linalg.norm(np.subtract(pose.centre, k.centre))) for k in kept]
        if all(each > config.SAME_PLACE * model.atlases.size for each in apart):
            kept.append(pose)
    return kept[: config.MOST_HYPOTHESES]
