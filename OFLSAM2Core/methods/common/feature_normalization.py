"""A volume's own feature statistics, so that scanners and protocols can be compared.

On left-atrium MRI, a head learned on three volumes without this gives Dice 0.00 on a fourth whose
contrast differs; with it, 0.30, and the mean of four rises from 0.49 to 0.61
(docs/experiments/left-atrium.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import ImageFeatures

PREVIEWED = 12
"""Slices, spread over the volume, that the statistics are taken from."""


def statistics_slices(count: int) -> list[int]:
    """Indices of the slices that statistics are taken from, out of `count`."""
    wanted = min(PREVIEWED, count)
    return sorted({round((i + 0.5) * count / wanted - 0.5) for i in range(wanted)})


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and deviation of every channel over a volume: (1, C, 1, 1) each."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of_volume(
        cls,
        count: int,
        encoded: Callable[[int], ImageFeatures],
        box: tuple[int, int, int, int],
        image_size: int,
    ) -> FeatureStatistics:
        """From the previewed slices; `encoded` gives a slice's features by index.

        box: where the slice lies in the network's image (rows from, to, columns from, to);
        the padding around it would dominate the statistics of narrow volumes.
        """
        samples = []
        for index in statistics_slices(count):
            embedding = encoded(index).embedding.float()
            step = image_size / embedding.shape[-1]
            top, left = int(box[0] / step), int(box[2] / step)
            bottom, right = -int(-box[1] // step), -int(-box[3] // step)
            samples.append(embedding[0, :, top:bottom, left:right].flatten(1))
        values = torch.cat(samples, dim=1)
        mean, deviation = values.mean(dim=1), values.std(dim=1).clamp(min=1e-4)
        return cls(mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1))

    def to(self, device: torch.device | str) -> FeatureStatistics:
        return FeatureStatistics(self.mean.to(device), self.deviation.to(device))

    def standardise(self, features: ImageFeatures) -> ImageFeatures:
        embedding = (features.embedding - self.mean) / self.deviation
        return replace(features, standardised=embedding)
