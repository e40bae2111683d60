"""A look at pixels: what a small U-Net of its own says of a volume, beside the frozen features.

A frozen encoder was made for other images, and its features are as coarse as they are general. A
U-Net that sees the pixels of three volumes alone is no better than what is learned from features
(left atrium 0.87, hippocampus 0.82), but it is wrong in other places, and copies of slices cost it
nothing to encode: the mean of both is better than either (docs/decisions/0021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.methods.ofl_sam2.consistency import ProbabilityVolume
from OFLSAM2Core.methods.ofl_sam2.levels import Level, LevelScale
from OFLSAM2Core.methods.ofl_sam2.look import weighed
from OFLSAM2Core.methods.ofl_sam2.pixel_network import BLOCK, PixelNetwork
from OFLSAM2Core.methods.ofl_sam2.seen_pixels import SIDE, SeenPixels
from OFLSAM2Core.preparation import PreparedVolume
from OFLSAM2Core.results import Progress, ProgressCallback
from OFLSAM2Core.slicing import Slicing

AGREED = 0.6
"""Dice of what features and pixels draw of a structure in a volume, from which on pixels are
believed, too: a guard for sets in which they say something else altogether. Left atria have 0.81 to
0.93, hippocampi 0.69 to 0.91."""

BATCH = 8
"""Slices read at once."""


@dataclass(frozen=True)
class PixelLook:
    """network: what was learned. It says nothing outside the slice."""

    network: PixelNetwork

    @torch.no_grad()
    def read(
        self,
        prepared: PreparedVolume,
        slicing: Slicing,
        scale: LevelScale,
        side: int,
        on_progress: ProgressCallback,
    ) -> ProbabilityVolume:
        """Probabilities of every slice on a grid of `side` x `side`; scale: of levels, as what was
        drawn gives them."""
        device = self.network.leave.weight.device
        seen = SeenPixels(prepared, slicing)
        found: list[Tensor] = []
        for first in range(0, slicing.count, BATCH):
            on_progress(Progress("finish", first, slicing.count, "looking at pixels"))
            indices = range(first, min(first + BATCH, slicing.count))
            levels = [Level(scale.level(i * slicing.slice_spacing), again=True) for i in indices]
            seen.forget_before(first)
            images = torch.stack([seen.image(index) for index in indices])
            logits = self.network(images.to(device), levels)
            if side != SIDE:
                logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
            found.extend(logits.sigmoid())
        return ProbabilityVolume.of_slices(found)

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, for a learned task."""
        return {name: t.detach().cpu().clone() for name, t in self.network.state_dict().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> PixelLook:
        """Raises TaskError when something is missing or of another shape."""
        try:
            network = PixelNetwork(len(tensors["leave.bias"]) // BLOCK**2)
            network.load_state_dict(dict(tensors))
        except (KeyError, RuntimeError) as error:
            raise TaskError(
                "The learned task lacks what was learned from pixels, or it has another shape.",
                "Learn it again from the support cases.",
            ) from error
        network.eval().requires_grad_(False).to(device)
        return cls(network)


def where_agreed(
    drawn: ProbabilityVolume,
    seen: ProbabilityVolume,
    agreement: npt.NDArray[np.float64],
    device: torch.device,
) -> ProbabilityVolume:
    """Both `weighed`, for structures of which the two draw much the same; the others as they were.

    agreement: `ProbabilityVolume.agreement`, (N,).
    """
    believed = torch.from_numpy(agreement >= AGREED).to(device)[:, None, None]

    def fused(index: int) -> Tensor:
        first = drawn.slice(index, device)
        return torch.where(believed, weighed(first, seen.slice(index, device)), first)

    return ProbabilityVolume.of_slices(map(fused, range(drawn.count)))
