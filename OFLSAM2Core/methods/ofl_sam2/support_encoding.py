"""The support cases, encoded once: the samples of the mapping network and of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures, Memory
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.augmentation import augment
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics, statistics_slices
from OFLSAM2Core.methods.common.sliced_volume import SlicedCase
from OFLSAM2Core.methods.common.support_memory import descriptor, spread
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.memory_check import check_memory

EMPTY_SHARE = 0.5
"""Slices without any structure that are learned from, relative to those with."""

SINGLE_CASE_BLOCK = 6
"""Slices a fold is made of where one support case must stand for several."""

WORKING_BYTES = 1.5e9
"""What the program and a training step hold besides the slices."""


@dataclass(frozen=True, eq=False)
class EncodedSlice:
    """One support slice, or an augmented copy of it, with its features in half precision.

    fold: what it belongs to when training: a fold never sees its own labels.
    masks: (N, S, S) uint8, 255 where a structure covers the pixel.
    """

    fold: int
    case: int
    copy: int
    index: int
    stored: ImageFeatures
    statistics: FeatureStatistics
    masks: Tensor
    descriptor: Tensor

    def features(self, backbone: Backbone) -> ImageFeatures:
        """On the backbone's device, standardised over the volume."""
        return self.statistics.standardise(self.stored.to(backbone.device))

    def memory(self, backbone: Backbone) -> Memory:
        """Memory features of the slice and its labels."""
        masks = self.masks[:, None].to(backbone.device).float() / 255
        return backbone.encode_memory(self.features(backbone), masks)


def encode_support(
    ctx: Context,
    cases: Sequence[SlicedCase],
    structures: Sequence[Structure],
    most: int,
    copies: int,
) -> list[EncodedSlice]:
    """Encode the slices that are learned from, about `most` of all cases, and `copies` augmented
    copies of each."""
    backbone, rng = ctx.needed_backbone, ctx.rng()
    chosen = [_select_slices(case, most // len(cases)) for case in cases]
    total = (1 + copies) * sum(map(len, chosen))
    encoded: list[EncodedSlice] = []
    for copy in range(1 + copies):
        for number, (case, indices) in enumerate(zip(cases, chosen, strict=True)):
            features: dict[int, ImageFeatures] = {}
            masks: dict[int, Tensor] = {}
            for index in indices:
                ctx.report(Progress("encode", len(encoded) + len(features), total, case.name))
                image, planes = case.prepared.image(index), case.masks(index, structures)
                if copy:
                    image, planes = augment(image, planes, rng)
                masks[index] = torch.from_numpy(np.round(255 * planes).astype(np.uint8))
                with ctx.timings.stage("encode"):
                    found = backbone.encode(torch.from_numpy(image)[None].to(backbone.device))
                features[index] = found.to("cpu", torch.float16)
                if not encoded and len(features) == 1:
                    _check_memory(features[index], masks[index], total)
            statistics = FeatureStatistics.of_volume(
                case.count, features.__getitem__, case.prepared.valid_region, backbone.image_size
            ).to(backbone.device)
            for index in indices:
                own = statistics.standardise(features[index].to(backbone.device))
                block = indices.index(index) // SINGLE_CASE_BLOCK % 2
                encoded.append(
                    EncodedSlice(
                        fold=block if len(cases) == 1 else number,
                        case=number,
                        copy=copy,
                        index=index,
                        stored=features[index],
                        statistics=statistics,
                        masks=masks[index],
                        descriptor=descriptor(own.normalized_embedding),
                    )
                )
    ctx.report(Progress("encode", total, total))
    return encoded


def _select_slices(case: SlicedCase, most: int) -> list[int]:
    """Slices with structures, some without, and those that the volume's statistics come from."""
    full = case.labelled.tolist()
    empty = sorted(set(range(case.count)) - set(full))
    full = spread(full, max(1, round(most / (1 + EMPTY_SHARE))))
    empty = spread(empty, max(4, round(EMPTY_SHARE * len(full))))
    return sorted({*full, *empty, *statistics_slices(case.count)})


def _check_memory(features: ImageFeatures, masks: Tensor, slices: int) -> None:
    """Raises ResourceError where the encoded slices will not fit."""
    kept = (features.embedding, *features.high_res, masks)
    check_memory(
        WORKING_BYTES + slices * sum(each.nbytes for each in kept),
        f"Learning from {counted(slices, 'slice')}",
        "Close other programs, give fewer support cases, or use the preset fast.",
    )
