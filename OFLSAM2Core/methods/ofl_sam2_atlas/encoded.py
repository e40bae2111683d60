"""Slices of a window, each encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics
from OFLSAM2Core.methods.common.high_pass import BLOCK, high_pass_features
from OFLSAM2Core.preprocessing.letterbox import Box
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.runtime.timings import Timings


class EncodedWindow:
    """Embeddings and fine detail of a window's slices, kept in half precision: 1.2 MB a slice of
    192 x 192 pixels. encoded: how many have been."""

    def __init__(self, backbone: Backbone, window: PreprocessedVolume, timings: Timings) -> None:
        self.window = window
        self._backbone = backbone
        self._timings = timings
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def encoded(self) -> int:
        return len(self._kept)

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Embedding (C, h, w) and fine detail (1, 4h, 4w) of canonical slice `index`."""
        if index not in self._kept:
            image = torch.from_numpy(self.window.image(index))[None]
            with self._timings.stage("encode"):
                self._kept[index] = encode(self._backbone, image)
        embedding, detail = self._kept[index]
        return embedding.float(), detail.float()

    def forget(self, index: int) -> None:
        self._kept.pop(index, None)

    def keep_at_most(self, bytes_: int) -> None:
        """Forget slices, those that were encoded last first: outwards from the middle they are the
        farthest. Where they are wanted again they are encoded again."""
        each = [sum(t.numel() * t.element_size() for t in own) for own in self._kept.values()]
        total = 0
        for index, own in zip(list(self._kept), each, strict=True):
            total += own
            if total > bytes_:
                self.forget(index)

    def statistics(self, indices: Sequence[int]) -> FeatureStatistics:
        """Mean and deviation of every channel over some slices, without the padding around them."""
        return statistics_of([self(index)[0] for index in indices], self.window.valid_region)


def encode(backbone: Backbone, image: Tensor) -> tuple[Tensor, Tensor]:
    """A slice (1, 3, S, S) in [0, 1] to its embedding and fine detail, in half precision."""
    shown = image.to(backbone.device)
    embedding = backbone.encode(shown).embedding[0].to("cpu", torch.float16)
    detail = torch.nn.functional.pixel_shuffle(
        high_pass_features(shown, backbone.feature_size), BLOCK
    )
    return embedding, detail[0].to("cpu", torch.float16)


def statistics_of(embeddings: Sequence[Tensor], box: Box) -> FeatureStatistics:
    """box: where slices lie in maps of BLOCK x BLOCK pixels a position; rows from, to, columns
    from, to."""
    top, left = box[0] // BLOCK, box[2] // BLOCK
    bottom, right = -(-box[1] // BLOCK), -(-box[3] // BLOCK)
    values = torch.cat(
        [each.float()[:, top:bottom, left:right].flatten(1) for each in embeddings], dim=1
    )
    mean, deviation = values.mean(dim=1), values.std(dim=1).clamp(min=1e-4)
    return FeatureStatistics(mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1))
