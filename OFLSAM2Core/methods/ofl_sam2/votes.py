"""What support cases say of a volume that they have been laid over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.framing import Box, Framing
from OFLSAM2Core.methods.ofl_sam2.consistency import ProbabilityVolume
from OFLSAM2Core.methods.ofl_sam2.cubic_grid import CubicGrid, Point
from OFLSAM2Core.slicing import Slicing


@dataclass(frozen=True)
class Votes:
    """shares: probabilities of structures, (N, D, H, W), on `grid` around `middle`."""

    shares: Tensor
    grid: CubicGrid
    middle: Point
    slicing: Slicing

    def in_region(self, region: Box) -> ProbabilityVolume:
        """On a region of the slices' own grid."""
        return ProbabilityVolume.of_slices(
            self._on_slice(index, region) for index in range(self.slicing.count)
        )

    def in_network(self, index: int, framing: Framing) -> npt.NDArray[np.float32]:
        """Of a slice as the network is shown it, (N, S, S)."""
        rows, columns = self.slicing.slice_shape
        return framing.to_network(self._on_slice(index, (0, rows, 0, columns)).cpu().numpy())

    def heard(self, index: int, framing: Framing, side: int) -> Tensor:
        """`as_heard`, of a slice."""
        return as_heard(self.in_network(index, framing), side)

    def _on_slice(self, index: int, region: Box) -> Tensor:
        return self.grid.on_slices(self.shares, self.slicing, self.middle, index, region)


def as_heard(planes: npt.NDArray[np.float32], side: int) -> Tensor:
    """Votes in the network's image (N, S, S) as a readout of `side` pixels hears them, (N, side,
    side)."""
    shown = torch.from_numpy(planes)[None]
    return F.interpolate(shown, size=(side, side), mode="area")[0]
