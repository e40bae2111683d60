"""A frozen encoder of a few fixed filters, for images of any size: quick, enough for phantoms."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import (
    Backbone,
    Decoded,
    ImageFeatures,
    LearnedAttention,
    Memory,
)


class ToyBackbone(Backbone):
    """Brightness, contrast and edges at two scales, mixed at random. encoded: how often it has seen
    each image, of whatever size."""

    name = "toy"
    identity = "0" * 64
    image_size = 256
    feature_size = 64
    feature_channels = 24
    memory_channels = 16

    def __init__(self) -> None:
        self.encoded: Counter[str] = Counter()
        mix = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
        self._mix = mix[:, :, None, None] / 8**0.5

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    takes_any_size = True

    def at_size(self, size: int) -> ToyBackbone:
        other = copy.copy(self)  # Counts are shared.
        other.image_size, other.feature_size = size, size // 4
        return other

    @torch.no_grad()
    def encode(self, images: Tensor) -> ImageFeatures:
        for image in images:
            self.encoded[hashlib.sha1(image.numpy().tobytes()).hexdigest()] += 1
        grey = images.mean(dim=1, keepdim=True)
        maps = []
        for width in (4, 12):
            padded = F.pad(grey, [width // 2] * 4, mode="replicate")
            mean = F.avg_pool2d(padded, width, 1)[..., : grey.shape[-1], : grey.shape[-1]]
            square = F.avg_pool2d(padded.square(), width, 1)[
                ..., : grey.shape[-1], : grey.shape[-1]
            ]
            down, across = (mean.diff(dim=n, append=mean.narrow(n, -1, 1)) for n in (2, 3))
            maps += [mean, (square - mean.square()).clamp(min=0).sqrt(), 8 * down, 8 * across]
        small = F.avg_pool2d(torch.cat(maps, dim=1), 4)
        return ImageFeatures(torch.tanh(2 * F.conv2d(small, self._mix)))

    def encode_memory(
        self, features: ImageFeatures, masks: Tensor, decoded: Decoded | None = None
    ) -> Memory:
        raise NotImplementedError

    def attend(
        self,
        features: ImageFeatures,
        support: Sequence[Memory],
        recent: Sequence[tuple[int, Memory]],
        attention: LearnedAttention | None = None,
    ) -> Tensor:
        raise NotImplementedError

    def decode(self, features: ImageFeatures, target: Tensor) -> Decoded:
        raise NotImplementedError
