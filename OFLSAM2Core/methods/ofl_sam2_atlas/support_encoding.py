"""The support, encoded once: what learning draws its episodes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior, as_heard
from OFLSAM2Core.backbones.base import Backbone, ImageFeatures, Memory
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import FRAME_AXIS
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.common.augmentation import augment
from OFLSAM2Core.methods.common.bilateral_symmetry import flip_left_right
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics, probe_slices
from OFLSAM2Core.methods.common.high_pass import encode_with_high_pass
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.retrieval import descriptor
from OFLSAM2Core.postprocessing.probability_volume import as_bytes
from OFLSAM2Core.preprocessing.support_stack import SupportStack
from OFLSAM2Core.runtime.memory_check import check_memory
from OFLSAM2Core.slice_position.regression import PositionScale

_Item = TypeVar("_Item")

MOST_SLICES = 240
"""Slices that are learned from, over all support cases: they bound time and memory. Those with
structures go first."""

EMPTY_SHARE = 0.25
"""Slices without any structure that are learned from, relative to those with."""

LEAST_PART = 0.1
"""Of the slices: fewer are not copied by themselves, for a dozen are needed for statistics."""

TRAINING_BYTES = 2_300_000_000
"""What the program and a training step hold besides the slices."""

BLOCK_OF_ONE_CASE = 6
"""Slices a fold is made of, where one support case must stand for several."""


@dataclass(frozen=True, eq=False)
class SupportSlice:
    """One encoded support slice, or an augmented copy of it.

    case: which fold it belongs to: a fold never learns from itself.
    stored: its features, in half precision (2 MB for LiteMedSAM).
    masks: (N, S, S) uint8, 255 where a structure covers the pixel.
    level: where the slice lies along the body.
    voted: what the other cases say, laid over its own, (N, 4h, 4h) uint8; None where there are
    none, or they have not been asked.
    """

    case: int
    copy: int
    index: int
    stored: ImageFeatures
    statistics: FeatureStatistics
    masks: Tensor
    descriptor: Tensor
    level: float
    voted: Tensor | None = None

    @property
    def present(self) -> Tensor:
        """Which of the N structures are in the slice."""
        return self.masks.flatten(1).amax(dim=1) > 127

    def features(self, backbone: Backbone, level: float | None = None) -> ImageFeatures:
        """Its features, standardised, on the backbone's device, at its own level or another."""
        features = self.statistics.standardise(self.stored.to(backbone.device))
        return replace(features, level=self.level if level is None else level)

    def memory(self, backbone: Backbone) -> Memory:
        """Memory features of the slice and its labels."""
        features = self.features(backbone)
        masks = self.masks[:, None].to(backbone.device).float() / 255
        return backbone.remember(features, masks)


def encode_support(
    backbone: Backbone,
    support: Sequence[SupportStack],
    structures: Sequence[Structure],
    options: LearnOptions,
    rng: np.random.Generator,
    on_progress: ProgressCallback,
    partners: npt.NDArray[np.intp] | None = None,
    votes: Sequence[AtlasPrior] | None = None,
) -> list[SupportSlice]:
    """Encode the slices worth learning from, and augmented copies of them.

    partners: as `symmetric_label_map` gives them: every second copy of a slice, and of its
    neighbours, is mirrored. votes: of the other cases, on each.
    """
    both_partners: npt.NDArray[np.intp] | None = None
    if partners is not None:  # Of masks and votes.
        both_partners = np.concatenate([partners, partners + len(partners)])
    chosen = [_worth_learning(case, MOST_SLICES // len(support)) for case in support]
    copies = options.copies_of(sum(len(indices) for indices in chosen))
    rounds = [chosen]
    for copy in range(math.ceil(copies - LEAST_PART)):
        share = min(copies - copy, 1.0)
        rounds.append(
            [_part(case, indices, share) for case, indices in zip(support, chosen, strict=True)]
        )
    total = sum(len(indices) for of_cases in rounds for indices in of_cases)
    encoded: list[SupportSlice] = []
    for copy, of_cases in enumerate(rounds):
        for number, (case, indices) in enumerate(zip(support, of_cases, strict=True)):
            images: dict[int, Tensor] = {}
            masks: dict[int, Tensor] = {}
            voted: dict[int, Tensor] = {}
            for index in indices:
                image = case.prepared.image(index)
                planes = np.stack(
                    [case.prepared.resample_mask(case.labels[index], s.label) for s in structures]
                )
                if votes is not None:
                    said = votes[number].on_network_grid(index, case.prepared.framing)
                    planes = np.concatenate([planes, said])
                if copy > 0:
                    image, planes = augment(image, planes, rng, len(structures))
                    if both_partners is not None and (copy + index) % 2:
                        image, planes = flip_left_right(image, planes, both_partners[: len(planes)])
                images[index] = torch.from_numpy(image)[None]
                masks[index] = as_bytes(torch.from_numpy(planes[: len(structures)]))
                if votes is not None:
                    heard = as_heard(planes[len(structures) :], 4 * backbone.feature_size)
                    voted[index] = as_bytes(heard)
            found: dict[int, ImageFeatures] = {}
            shelf = _Shelf(len(indices))
            for index in indices:
                on_progress(Progress("encode", len(encoded) + len(found), total, case.name))
                features = encode_with_high_pass(backbone, images[index].to(backbone.device))
                found[index] = shelf.put(features)
                if not encoded and len(found) == 1:
                    _check_memory(found[index], masks[index], total)
            box = case.prepared.valid_region
            statistics = FeatureStatistics.of_volume(
                case.slicing.count, found.__getitem__, box, backbone.image_size
            ).to(backbone.device)
            scale = PositionScale.of_labels(case.labels, case.slicing.slice_spacing)
            for index in indices:
                features = statistics.standardise(found[index].to(backbone.device))
                # Of all of the case's slices: a copy belongs where its original is.
                fold = _block(chosen[number], index) if len(support) == 1 else number
                encoded.append(
                    SupportSlice(
                        case=fold,
                        copy=copy,
                        index=index,
                        stored=found[index],
                        statistics=statistics,
                        masks=masks[index],
                        descriptor=descriptor(features.normalized_embedding)[0],
                        level=_level(case, scale, index),
                        voted=voted.get(index),
                    )
                )
    on_progress(Progress("encode", total, total))
    return encoded


class _Shelf:
    """Features of the slices of a case, in half precision, side by side in one block of memory.

    Kept one by one, with what is computed between them, they leave memory in so many pieces that
    finding a free one takes as long as a training step.
    """

    def __init__(self, slices: int) -> None:
        self._slices = slices
        self._blocks: list[Tensor] = []
        self._position: Tensor | None = None
        self._filled = 0

    def put(self, features: ImageFeatures) -> ImageFeatures:
        """Features of one slice, moved here."""
        small = features.to("cpu", torch.float16)
        assert small.detail is not None
        maps = (small.embedding, small.detail, *small.high_res)
        if not self._blocks:
            self._blocks = [
                torch.empty((self._slices, *each.shape[1:]), dtype=each.dtype) for each in maps
            ]
        here = slice(self._filled, self._filled + 1)
        self._filled += 1
        for block, each in zip(self._blocks, maps, strict=True):
            block[here].copy_(each)
        kept = [block[here] for block in self._blocks]
        # The same for all slices, with SAM 2 as large as an embedding.
        position = small.position
        if self._position is None or position is None or not torch.equal(position, self._position):
            self._position = position
        return replace(
            small,
            embedding=kept[0],
            detail=kept[1],
            high_res=tuple(kept[2:]),
            position=self._position,
        )


def _check_memory(features: ImageFeatures, masks: Tensor, slices: int) -> None:
    """Raises ResourceError. Left atrium, 442 slices, LiteMedSAM: 3.3 GB by this, 3.6 measured."""
    assert features.detail is not None
    stored = (features.embedding, features.detail, *features.high_res, masks)
    # As many as pixels: what is predicted and what the mapping network says, in half precision, and
    # what other cases say, in bytes.
    predicted = (2 + 2 + 1) * len(masks) * features.embedding[0, 0].numel() * 16
    check_memory(
        TRAINING_BYTES + slices * (sum(each.nbytes for each in stored) + predicted),
        f"Learning from {slices} slices",
        "Close other programs, give fewer support cases, or use the preset fast.",
    )


def _block(indices: Sequence[int], index: int) -> int:
    """0 or 1, by turns for blocks of slices; both occur where there are two slices."""
    size = min(BLOCK_OF_ONE_CASE, max(1, len(indices) // 2))
    return indices.index(index) // size % 2


def _level(case: SupportStack, scale: PositionScale, index: int) -> float:
    if case.slicing.orientation == FRAME_AXIS:  # Time is no place.
        return 0.0
    return scale.level(index * case.slicing.slice_spacing)


def _part(case: SupportStack, indices: list[int], share: float) -> list[int]:
    """A share of a case's slices, evenly chosen, with the previewed ones among them."""
    seen = probe_slices(len(case.labels))
    others = [index for index in indices if index not in seen]
    wanted = max(round(share * len(indices)) - len(seen), 0)
    return sorted([*seen, *spread(others, wanted)])


def _worth_learning(case: SupportStack, most: int) -> list[int]:
    """Slices with structures, some without (nearest to them first), and the previewed ones."""
    full = np.flatnonzero(case.labels.reshape(len(case.labels), -1).any(axis=1))
    empty = np.setdiff1d(np.arange(len(case.labels)), full)
    full = np.array(spread(full.tolist(), min(len(full), most)))
    wanted = min(len(empty), max(4, round(EMPTY_SHARE * len(full))))
    distance = np.abs(empty[:, None] - full[None]).min(axis=1)
    nearest = empty[np.argsort(distance, kind="stable")].tolist()
    kept = spread(nearest, wanted)
    return sorted({*full.tolist(), *kept, *probe_slices(len(case.labels))})


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """So many of the items, evenly, with the first and the last."""
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]
