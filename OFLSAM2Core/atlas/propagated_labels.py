"""The prior: what registered support cases say of a volume."""

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
    """shares: probabilities of structures, (N, D, H, W), on `grid` around `middle`."""

    shares: Tensor
    grid: IsotropicGrid
    middle: Point
    slicing: SliceGeometry

    def on_network_grid(self, index: int, framing: Letterbox) -> npt.NDArray[np.float32]:
        """Of a slice as the network is shown it, (N, S, S)."""
        rows, columns = self.slicing.slice_shape
        return framing.to_network(self._on_slice(index, (0, rows, 0, columns)).cpu().numpy())

    def _on_slice(self, index: int, region: Box) -> Tensor:
        return self.grid.on_slices(self.shares, self.slicing, self.middle, index, region)
