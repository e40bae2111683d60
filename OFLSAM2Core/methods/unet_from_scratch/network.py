"""The network, and volumes as it sees them: at the support's spacing, scaled by percentiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from monai.transforms import ScaleIntensityRangePercentiles
from torch import Tensor

from OFLSAM2Core.data.volume import Volume

PATCH = {2: 256, 3: 96}
"""Largest side of what the network sees at once, in voxels."""

WIDTH = {2: 32, 3: 16}
"""Channels at full resolution; they double with every pooling. nnU-Net has 32 in 3D, for a GPU."""

POOLINGS = 4
"""At most; a patch is a multiple of 16 voxels wide."""

LEAST_SIDE = 4
"""Voxels that a feature map has along each axis at least, as in nnU-Net."""


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

    def kernels_and_strides(self) -> tuple[list[list[int]], list[list[int]]]:
        """Convolution kernels and strides of each resolution, by nnU-Net's rules (Isensee et al.
        2021): an axis is pooled when its voxels are less than twice as long as the shortest, and
        convolutions are 3 wide along it from then on."""
        size, spacing = np.array(self.patch), np.array(self.spacing[-self.dimensions :])
        alike = spacing < 2 * spacing.min()
        kernels, strides = [np.where(alike, 3, 1)], [np.ones_like(size)]
        while len(strides) <= POOLINGS and (large := size >= 2 * LEAST_SIDE).any():
            stride = np.where(large & (spacing < 2 * spacing[large].min()), 2, 1)
            size, spacing = size // stride, spacing * stride
            alike = alike | (spacing < 2 * spacing.min())
            kernels.append(np.where(alike, 3, 1))
            strides.append(stride)
        return [each.tolist() for each in kernels], [each.tolist() for each in strides]

    def network(self, structures: int) -> DynUNet:
        """nnU-Net's plain U-Net, whose pooling follows the voxels' shape."""
        kernels, strides = self.kernels_and_strides()
        widths = [WIDTH[self.dimensions] * 2**depth for depth in range(len(strides))]
        return DynUNet(
            self.dimensions, 1, structures + 1, kernels, strides, strides[1:], filters=widths
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
