"""Features of a volume's slices, each encoded once."""

from __future__ import annotations

import torch

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures
from OFLSAM2Core.methods.common.high_pass import encode_with_high_pass
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume


class FeatureCache:
    """Encodes a slice when it is asked for, and keeps it until it is forgotten: statistics are
    taken from slices that are needed again later, and a slice takes up to 17 MB (SAM2 at 1024
    pixels)."""

    def __init__(self, backbone: Backbone, prepared: PreprocessedVolume) -> None:
        self._backbone = backbone
        self._prepared = prepared
        self._kept: dict[int, ImageFeatures] = {}

    def __call__(self, index: int) -> ImageFeatures:
        """Features of slice `index`, with detail."""
        if index not in self._kept:
            image = torch.from_numpy(self._prepared.image(index))[None]
            self._kept[index] = encode_with_high_pass(
                self._backbone, image.to(self._backbone.device)
            )
        return self._kept[index]

    def forget(self, index: int) -> None:
        self._kept.pop(index, None)
