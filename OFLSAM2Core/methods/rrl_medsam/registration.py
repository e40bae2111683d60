"""Registration by a dense displacement field: warping a volume, and the losses of the field."""

from __future__ import annotations

import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from monai.networks.blocks import Warp
from torch import Tensor

NEIGHBOURHOOD = 7
"""Cells each way over which the cross-correlation is normalised."""

SMOOTHNESS = 0.1
CYCLE = 1.0
"""Weights of the flow's gradient, in cells, and of the way there and back, beside the
cross-correlation. With 10 for the latter, the paper's lab's, a ball that was moved by a third of
its width is not followed at all in 60 steps; with 1 the overlap is 0.99."""

_alike = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=NEIGHBOURHOOD)
_warp = Warp(mode="bilinear", padding_mode="border")


def warped(maps: Tensor, flow: Tensor) -> Tensor:
    """Maps (B, C, D, H, W) at the cells that a flow (B, 3, D, H, W) points to, in cells."""
    found: Tensor = _warp(maps, flow)
    return found


def registration_loss(
    fixed: Tensor, moving: Tensor, there: Tensor, back: Tensor
) -> tuple[Tensor, Tensor]:
    """(loss, the moving volume over the fixed one), images (B, 1, D, H, W) in [0, 1].

    there: from cells of the fixed volume to the moving one. back: the other way round. Normalised
    cross-correlation both ways, squared gradient of the flows, and L1 distance of the moving volume
    to itself after both.
    """
    over = warped(moving, there)
    alike = _alike(over, fixed) + _alike(warped(fixed, back), moving)
    rough = sum((_roughness(flow) for flow in (there, back)), torch.zeros(()).to(fixed))
    cycle = (warped(over, back) - moving).abs().mean()
    return alike + SMOOTHNESS * rough + CYCLE * cycle, over


def _roughness(flow: Tensor) -> Tensor:
    return torch.stack([flow.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).mean()
