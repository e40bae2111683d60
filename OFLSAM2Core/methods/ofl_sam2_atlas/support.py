"""Support slices for learning, each encoded once, with a few augmented copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.common.augmentation import augment
from OFLSAM2Core.methods.common.bilateral_symmetry import flip_left_right
from OFLSAM2Core.methods.ofl_sam2_atlas.config import (
    EMPTY_SHARE,
    MOST_SLICES,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.encoded import encode, statistics_of
from OFLSAM2Core.postprocessing.probability_volume import as_bytes
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.slice_position.regression import PositionScale

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class SupportWindow:
    """A support case in the view of the encoder.

    labels: canonical slices (S, H, W). prior: from the other cases, registered to it; None where
    there are none. statistics_range: the first slice from which feature statistics are taken, and
    the one behind the last.
    """

    window: PreprocessedVolume
    labels: npt.NDArray
    scale: PositionScale
    spacing: float
    prior: AtlasPrior | None
    statistics_range: tuple[int, int]

    def is_for_statistics(self, index: int) -> bool:
        """Whether feature statistics are taken from a slice."""
        return self.statistics_range[0] <= index < self.statistics_range[1]


@dataclass(frozen=True, eq=False)
class SupportSlice:
    """An encoded support slice, or an augmented copy. case: the fold that it belongs to. embedding:
    (C, h, w), standardised, half precision. detail: (1, S, S). masks, prior: (N, S, S) bytes.
    slice_position: -1 and 1 at the ends of the structures."""

    case: int
    copy: int
    slice_position: float
    embedding: Tensor
    detail: Tensor
    masks: Tensor
    prior: Tensor | None


def encode_support(
    backbone: Backbone,
    windows: Sequence[SupportWindow],
    structures: Sequence[Structure],
    wanted: int,
    rng: np.random.Generator,
    on_step: OnStep,
    partners: npt.NDArray[np.intp] | None = None,
    cases: int | None = None,
) -> list[SupportSlice]:
    """wanted: slices and copies in all. partners: of structures in a mirror; every second copy is
    mirrored then. cases: of all the support, where the windows are not all of it."""
    most = MOST_SLICES // (cases or len(windows))
    chosen = [select_slices(each.labels, most) for each in windows]
    own = sum(map(len, chosen))
    rounds = [chosen]
    left = max(wanted - own, 0)
    while left >= 4 * len(windows):
        share = min(left / own, 1.0)
        some = [spread(indices, max(round(share * len(indices)), 4)) for indices in chosen]
        rounds.append(some)
        left -= sum(map(len, some))
    total, done = sum(len(each) for some in rounds for each in some), 0
    both = None if partners is None else np.concatenate([partners, partners + len(partners)])
    found: list[SupportSlice] = []
    for copy, of_cases in enumerate(rounds):
        for case, (own_window, indices) in enumerate(zip(windows, of_cases, strict=True)):
            encoded = []
            for index in indices:
                on_step(done, total)
                done += 1
                image, planes = _planes(own_window, index, structures)
                if copy > 0:
                    image, planes = augment(image, planes, rng, len(structures))
                    if both is not None and (copy + index) % 2:
                        image, planes = flip_left_right(image, planes, both[: len(planes)])
                embedding, detail = encode(backbone, torch.from_numpy(image)[None])
                maps = F.avg_pool2d(torch.from_numpy(planes), own_window.window.finer)
                encoded.append((index, embedding, detail, as_bytes(maps)))
            # As in a new volume: of slices with structures where these are located, else of all.
            inside = [each[1] for each in encoded if own_window.is_for_statistics(each[0])]
            statistics = statistics_of(inside, own_window.window.valid_region)
            for index, embedding, detail, maps in encoded:
                standard = (embedding.float() - statistics.mean[0]) / statistics.deviation[0]
                prior = maps[len(structures) :]
                fold = case if len(windows) > 1 else _block(chosen[0], index)
                slice_position = own_window.scale.slice_position(index * own_window.spacing)
                found.append(
                    SupportSlice(
                        fold,
                        copy,
                        slice_position,
                        standard.half(),
                        detail,
                        maps[: len(structures)].clone(),
                        prior.clone() if len(prior) else None,
                    )
                )
    on_step(total, total)
    return found


def _planes(
    own: SupportWindow, index: int, structures: Sequence[Structure]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The encoder's image (3, S, S), and masks and priors (N or 2 N, S, S) on its grid."""
    window = own.window
    framing = window.framing.finer(window.finer)
    masks = framing.to_network(np.stack([own.labels[index] == s.label for s in structures]))
    if own.prior is None:
        return window.image(index), masks
    return window.image(index), np.concatenate([masks, own.prior.on_network_grid(index, framing)])


def select_slices(labels: npt.NDArray, most: int) -> list[int]:
    """Slices with structures, evenly, and some beyond their ends."""
    there = np.asarray(labels.any(axis=(1, 2)))
    full = np.flatnonzero(there)
    kept = spread(full.tolist(), min(len(full), round(most * (1 - EMPTY_SHARE / 2))))
    empty = np.flatnonzero(~there)
    wanted = min(len(empty), max(4, round(EMPTY_SHARE * len(kept))))
    distance = np.abs(empty[:, None] - full[None]).min(axis=1)
    # Half of them beside the ends, the others farther and farther away.
    nearest = empty[np.argsort(distance, kind="stable")].tolist()
    beside = nearest[: wanted // 2]
    beyond = spread(nearest[wanted // 2 :], wanted - len(beside))
    return sorted({*kept, *beside, *beyond})


def spread(items: Sequence[int], count: int) -> list[int]:
    """So many of the items, evenly, with the first and the last."""
    if count <= 0 or not items:
        return []
    return sorted({items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)})


def _block(indices: Sequence[int], index: int) -> int:
    """0 or 1, by turns for blocks of slices: a single case stands for two."""
    return indices.index(index) // max(1, min(6, len(indices) // 2)) % 2
