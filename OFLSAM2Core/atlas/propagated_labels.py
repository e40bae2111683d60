"""What support cases say of a volume that they have been laid over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.letterbox import Box, Letterbox


@dataclass(frozen=True)
class AtlasPrior:
    """shares: probabilities of structures, (N, D, H, W), on `grid` around `middle`."""

    shares: Tensor
    grid: IsotropicGrid
    middle: Point
    slicing: SliceGeometry

    def on_slice_grid(self, region: Box) -> ProbabilityVolume:
        """On a region of the slices' own grid."""
        return ProbabilityVolume.of_slices(
            self._on_slice(index, region) for index in range(self.slicing.count)
        )

    def on_network_grid(self, index: int, framing: Letterbox) -> npt.NDArray[np.float32]:
        """Of a slice as the network is shown it, (N, S, S)."""
        rows, columns = self.slicing.slice_shape
        return framing.to_network(self._on_slice(index, (0, rows, 0, columns)).cpu().numpy())

    def for_head(self, index: int, framing: Letterbox, side: int) -> Tensor:
        """`as_heard`, of a slice."""
        return as_heard(self.on_network_grid(index, framing), side)

    def _on_slice(self, index: int, region: Box) -> Tensor:
        return self.grid.on_slices(self.shares, self.slicing, self.middle, index, region)


def as_heard(planes: npt.NDArray[np.float32], side: int) -> Tensor:
    """Votes in the network's image (N, S, S) as a readout of `side` pixels hears them, (N, side,
    side)."""
    shown = torch.from_numpy(planes)[None]
    return F.interpolate(shown, size=(side, side), mode="area")[0]
