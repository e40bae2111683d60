"""The network, and volumes as it sees them: at the support's spacing, scaled by percentiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from monai.transforms import ScaleIntensityRangePercentiles
from torch import Tensor

from OFLSAM2Core.data.volume import Volume

PATCH = {2: 256, 3: 96}
"""Largest side of what the network sees at once, in voxels."""

FEATURES = {2: (32, 32, 64, 128, 256, 32), 3: (16, 32, 64, 128, 256, 16)}


@dataclass(frozen=True)
class Plan:
    """spacing: of the network's voxels in mm, slices, rows and columns; 0 along slices in 2D, which
    stay as they are. patch: in voxels, of as many sides as the network has dimensions."""

    spacing: tuple[float, ...]
    patch: tuple[int, ...]

    @property
    def dimensions(self) -> int:
        return len(self.patch)

    @classmethod
    def of_support(cls, volumes: list[Volume], dimensions: int) -> Plan:
        """Median spacing of the support, and a patch that holds its volumes or is PATCH wide."""
        spacing = np.median([volume.spacing[::-1] for volume in volumes], axis=0)
        if dimensions == 2:
            spacing[0] = 0
        without = cls(tuple(spacing.tolist()), (1,) * dimensions)
        sizes = np.array([without.size(volume)[-dimensions:] for volume in volumes])
        sides = np.minimum(PATCH[dimensions], np.ceil(sizes.max(axis=0) / 16) * 16)
        return cls(without.spacing, tuple(int(side) for side in sides))

    def network(self, structures: int) -> BasicUNet:
        return BasicUNet(
            self.dimensions, 1, structures + 1, FEATURES[self.dimensions], act="LeakyReLU"
        )

    def size(self, volume: Volume) -> list[int]:
        """The size of a volume at the plan's spacing, in voxels (k, j, i)."""
        own = volume.spacing[::-1]
        return [
            max(1, round(side * have / want)) if want else side
            for side, have, want in zip(volume.grid_shape, own, self.spacing, strict=True)
        ]

    def image(self, volume: Volume) -> Tensor:
        """(1, K, J, I), 0 to 1 from the 0.5th to the 99.5th percentile."""
        image = torch.from_numpy(volume.array.astype(np.float32))[None, None]
        scaled = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)(
            F.interpolate(image, self.size(volume), mode="trilinear")[0]
        )
        return torch.as_tensor(scaled)

    def labels(self, volume: Volume, labels: npt.NDArray, values: list[int]) -> Tensor:
        """(1, K, J, I), structures numbered from 1 in the order of `values`."""
        numbered = np.zeros(labels.shape, np.float32)
        for number, value in enumerate(values, start=1):
            numbered[labels == value] = number
        return F.interpolate(torch.from_numpy(numbered)[None, None], self.size(volume))[0]
