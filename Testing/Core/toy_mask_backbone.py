"""A small backbone of LiteMedSAM's kind: memory features are masks, read out by attention.

Encoder and decoder are fixed and take a millisecond; memory and attention are LiteMedSAM's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, Decoded, ImageFeatures, LearnedAttention, Memory
from OFLSAM2Core.backbones.litemedsam import BLOCK, LiteMedSamBackbone, MaskAttention

CHANNELS = 48


class ToyMaskBackbone(Backbone):
    """Features: random filters of an image at three scales. Masks: the first 16 channels of target
    features, as pixels."""

    name = "toy-mask"
    identity = "0" * 64
    image_size = 64
    feature_size = 64 // BLOCK
    feature_channels = CHANNELS
    memory_channels = BLOCK * BLOCK
    attended_channels = BLOCK * BLOCK
    memory_is_mask = True

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._filters = torch.randn(CHANNELS // 3, 3, 8, 8, generator=generator)
        self._device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        return self._device

    def new_attention(self) -> MaskAttention:
        return MaskAttention(CHANNELS)

    @torch.no_grad()
    def encode(self, images: Tensor) -> ImageFeatures:
        scales = []
        for blur in (1, 5, 13):
            seen = F.avg_pool2d(images, blur, 1, blur // 2, count_include_pad=False)
            padded = F.pad(seen, (2, 2, 2, 2), mode="replicate")
            scales.append(F.conv2d(padded, self._filters, stride=BLOCK))
        return ImageFeatures(torch.cat(scales, dim=1))

    def encode_memory(
        self, features: ImageFeatures, masks: Tensor, decoded: Decoded | None = None
    ) -> Memory:
        return LiteMedSamBackbone.encode_memory(self, features, masks)  # type: ignore[arg-type]

    def attend(
        self,
        features: ImageFeatures,
        support: Sequence[Memory],
        recent: Sequence[tuple[int, Memory]],
        attention: LearnedAttention | None = None,
        *,
        support_offsets: Sequence[int | None] | None = None,
    ) -> Tensor:
        return LiteMedSamBackbone.attend(self, features, support, recent, attention)  # type: ignore[arg-type]

    def decode(self, features: ImageFeatures, target: Tensor) -> Decoded:
        logits = F.pixel_shuffle(target[:, : BLOCK * BLOCK], BLOCK)
        return Decoded(logits, torch.ones(len(target)))
