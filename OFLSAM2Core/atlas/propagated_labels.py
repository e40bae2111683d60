"""The atlas prior: labels of registered support cases, as probabilities in a volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.preprocessing.letterbox import Box, Letterbox


@dataclass(frozen=True)
class AtlasPrior:
    """Probabilities of N structures on a grid around a point of a volume.

    shares: probabilities in [0, 1], (N, D, H, W), on `grid`. middle: where the grid's middle lies,
    mm from the middle of the first voxel. slicing: of the volume.
    """

    shares: Tensor
    grid: IsotropicGrid
    middle: Point
    slicing: SliceGeometry

    def on_network_grid(self, index: int, framing: Letterbox) -> npt.NDArray[np.float32]:
        """The prior of a slice, on the grid of the image that the network is shown, (N, S, S)."""
        rows, columns = self.slicing.slice_shape
        return framing.to_network(self._on_slice(index, (0, rows, 0, columns)).cpu().numpy())

    def _on_slice(self, index: int, region: Box) -> Tensor:
        return self.grid.on_slices(self.shares, self.slicing, self.middle, index, region)
