"""Predict: the located slices, each encoded once, from the surest outwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics
from OFLSAM2Core.methods.common.propagation_order import propagation_order
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.encoded import EncodedWindow
from OFLSAM2Core.methods.ofl_sam2_atlas.location import Location, prior_in_window
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model

Standardised = Callable[[int], tuple[Tensor, Tensor]]


def standardised(encoded: EncodedWindow, statistics: FeatureStatistics) -> Standardised:
    def seen(index: int) -> tuple[Tensor, Tensor]:
        embedding, detail = encoded(index)
        return (embedding - statistics.mean[0]) / statistics.deviation[0], detail

    return seen


@torch.no_grad()
def predict_slice(
    model: Model, seen: tuple[Tensor, Tensor], prior: Tensor | None, slice_position: float | None
) -> Tensor:
    """Probabilities (N, S, S) of a slice. prior: (N, S, S). slice_position: -1 and 1
    at the ends of the structures, None where it is not known."""
    embedding, detail = seen
    components = model.mapping.features(embedding[None])
    mapped = model.mapping(components, slice_position)
    known = torch.zeros_like(mapped) if prior is None else prior
    fine = torch.cat([detail, mapped, known])
    return model.head(components[None], fine[None], [slice_position])[0].sigmoid()


def predict(
    model: Model, location: Location, count: int, spacing: float
) -> Iterator[tuple[int, Tensor]]:
    """Slices and their probabilities by what the features show, without the prior: outwards from
    the middle, beyond the located ends until nothing has been predicted for EMPTY_ENDS of the
    height."""
    seen = standardised(location.encoded, location.encoded.statistics(location.statistics_slices))
    start = min(max(location.statistics_slices[len(location.statistics_slices) // 2], 0), count - 1)
    patience = max(1, round(config.EMPTY_ENDS * (location.stop - location.first)))
    last_found = {1: start, -1: start}
    open_ = {1, -1}
    for index, direction in propagation_order(start, count):
        if direction and direction not in open_:
            continue
        beyond = not location.first <= index < location.stop
        if beyond and abs(index - last_found[direction]) > patience:
            open_.discard(direction)
            continue
        slice_position = location.slice_position_of(index, spacing)
        found = predict_slice(model, seen(index), None, slice_position)
        if direction and bool((found > 0.5).any()):
            last_found[direction] = index
        yield index, found


def predict_again(
    model: Model, location: Location, indices: Iterable[int], spacing: float
) -> Iterator[tuple[int, Tensor]]:
    """Slices by the prior, too, and a better position, from the features that are kept."""
    seen = standardised(location.encoded, location.encoded.statistics(location.statistics_slices))
    framing = location.encoded.window.framing
    for index in indices:
        prior = prior_in_window(location.prior, index, framing)
        slice_position = location.slice_position_of(index, spacing)
        yield index, predict_slice(model, seen(index), prior, slice_position)
