"""Predict: the located slices, each encoded once for each view, from the surest outwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from OFLSAM2Core.methods.common.propagation_order import propagation_order
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.encoded import EncodedWindow
from OFLSAM2Core.methods.ofl_sam2_atlas.locate import Location, prior_in_window
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model, ViewModel
from OFLSAM2Core.methods.ofl_sam2_atlas.resample import resampled

Standardised = Callable[[int], tuple[Tensor, Tensor]]

LEAST = 1 / 510
"""What a probability of 0 counts for, in bytes, when logits are averaged."""


def standardised(encoded: EncodedWindow, probes: Sequence[int]) -> Standardised:
    """Embeddings by the mean and deviation of some slices, and details."""
    statistics = encoded.statistics(probes)

    def seen(index: int) -> tuple[Tensor, Tensor]:
        embedding, detail = encoded(index)
        return (embedding - statistics.mean[0]) / statistics.deviation[0], detail

    return seen


@torch.no_grad()
def predict_slice(
    own: ViewModel, seen: tuple[Tensor, Tensor], prior: Tensor | None, level: float | None
) -> Tensor:
    """Probabilities (N, S, S) of a slice by one view. prior: (N, S, S); level: slice position."""
    embedding, detail = seen
    components = own.mapping.features(embedding[None])
    mapped = own.mapping(components, level)
    known = torch.zeros_like(mapped) if prior is None else prior
    fine = torch.cat([detail, mapped, known])
    return own.head(components[None], fine[None], [level])[0].sigmoid()


class Predictor:
    """A located volume's slices by all views: the mean of their logits, on the nearest one's
    image."""

    def __init__(self, model: Model, location: Location, spacing: float) -> None:
        """spacing: mm between slices."""
        self._location = location
        self._spacing = spacing
        self._views = [
            (own, encoded.window.framing, standardised(encoded, location.probes))
            for own, encoded in zip(model.views, location.windows, strict=False)
        ]

    def __call__(self, index: int) -> Tensor:
        """Probabilities (N, S, S) of canonical slice `index`."""
        location = self._location
        level = location.level_of(index, self._spacing)
        logits = []
        for own, framing, seen in self._views:
            prior = prior_in_window(location.prior, index, framing)
            found = predict_slice(own, seen(index), prior, level)
            logits.append(
                resampled(found, framing, location.framing).clamp(LEAST, 1 - LEAST).logit()
            )
        return torch.stack(logits).mean(dim=0).sigmoid()


def predict(
    model: Model, location: Location, count: int, spacing: float
) -> Iterator[tuple[int, Tensor]]:
    """Slices and their probabilities, outwards from the middle; beyond the located ends until
    nothing has been predicted for EMPTY_ENDS of the height."""
    of_slice = Predictor(model, location, spacing)
    start = min(max(location.probes[len(location.probes) // 2], 0), count - 1)
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
        found = of_slice(index)
        if direction and bool((found > 0.5).any()):
            last_found[direction] = index
        yield index, found


def predict_again(
    model: Model, location: Location, indices: Iterable[int], spacing: float
) -> Iterator[tuple[int, Tensor]]:
    """Slices by a better prior and position, from the features that are kept."""
    of_slice = Predictor(model, location, spacing)
    for index in indices:
        yield index, of_slice(index)
