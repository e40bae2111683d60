"""What the pixel network sees of a volume: a slice, and one on either side of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.preparation import PreparedVolume
from OFLSAM2Core.slicing import Slicing

SIDE = 192
"""Of the image that is seen, in pixels, whatever the backbone sees. Slices without a square have no
more voxels than that, mostly, and 256 would take almost twice the time."""

BESIDE = 2.5
"""mm between the slices that are seen at once; at least one slice."""


class SeenPixels:
    """Slices of a prepared volume, each made ready once, in half precision, and kept until it is
    forgotten."""

    def __init__(self, prepared: PreparedVolume, slicing: Slicing) -> None:
        self._prepared = prepared
        self._last = slicing.count - 1
        self._kept: dict[int, Tensor] = {}
        self.step = max(1, round(BESIDE / slicing.slice_spacing))

    def image(self, index: int) -> Tensor:
        """(3, SIDE, SIDE) in [0, 1]: the slice between its neighbours, `step` slices off. An end of
        the volume is its own neighbour."""
        beside = max(index - self.step, 0), index, min(index + self.step, self._last)
        return torch.stack([self._plane(each) for each in beside]).float()

    def forget_before(self, index: int) -> None:
        """The slices that none from `index` on has beside it."""
        for each in [kept for kept in self._kept if kept < index - self.step]:
            del self._kept[each]

    def _plane(self, index: int) -> Tensor:
        if index not in self._kept:
            self._kept[index] = on_side(self._prepared.image(index)[:1])[0].half()
        return self._kept[index]


def on_side(planes: npt.NDArray[np.float32]) -> Tensor:
    """(N, S, S) to (N, SIDE, SIDE)."""
    images, size = torch.from_numpy(planes)[None], (SIDE, SIDE)
    return F.interpolate(images, size, mode="bilinear", antialias=True)[0]
