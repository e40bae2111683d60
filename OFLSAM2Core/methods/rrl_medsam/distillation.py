"""What the general encoder learns from: the frozen backbone's features, and how far it is from
them; and what both encoders learn from each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.sliced_volume import SlicedVolume
from OFLSAM2Core.methods.rrl_medsam.networks import DISTILLED

AT_ONCE = 32
"""Channels that are brought to a slice's own grid at once: all of a large slice are 300 MB."""


@torch.no_grad()
def backbone_features(
    ctx: Context, volume: SlicedVolume, grid: IsotropicGrid, middle: Point, name: str
) -> tuple[Tensor, Tensor]:
    """The backbone's features of a volume, (C, d, h, w), with mean 0 and deviation 1 of every
    channel in the volume, and which cells lie in it, (d, h, w), on the distilled level's grid.

    The backbone sees slices: of each plane of cells the slice that is nearest to its middle.
    """
    coarse = grid.coarser(2**DISTILLED)
    slicing = volume.slicing
    axes = [
        (torch.linspace(-1, 1, side) * half + centre) / step
        for side, half, centre, step in zip(
            coarse.shape, coarse.half.tolist(), middle, slicing.steps, strict=True
        )
    ]
    within = [
        (places >= -0.5) & (places <= side - 0.5)
        for places, side in zip(axes, slicing.shape, strict=True)
    ]
    inside = within[0][:, None, None] & within[1][:, None] & within[2]
    rows, columns = (
        2 * places / max(side - 1, 1) - 1
        for places, side in zip(axes[1:], slicing.slice_shape, strict=True)
    )
    at = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flip(-1)[None]
    nearest = [int(place.round().clamp(0, volume.count - 1)) for place in axes[0]]
    planes: dict[int, Tensor] = {}
    for done, index in enumerate(nearest):
        ctx.report(Progress("encode", done, len(nearest), name))
        if index not in planes:
            image = volume.image(index).to(ctx.needed_backbone.device)
            with ctx.timings.stage("encode"):
                embedding = ctx.needed_backbone.encode(image).embedding[0].float().cpu()
            parts = [
                F.grid_sample(
                    volume.prepared.to_grid(part)[None],
                    at,
                    padding_mode="border",
                    align_corners=True,
                )[0]
                for part in embedding.split(AT_ONCE)
            ]
            planes[index] = torch.cat(parts)
    features = torch.stack([planes[index] for index in nearest], dim=1)
    known = features[:, inside]
    mean, deviation = known.mean(dim=1), known.std(dim=1).clamp(min=1e-4)
    features = (features - mean[:, None, None, None]) / deviation[:, None, None, None]
    return features, inside


def distillation_loss(student: Tensor, teacher: Tensor, inside: Tensor) -> Tensor:
    """L1 distance of features (B, C, d, h, w), and Kullback-Leibler divergence of the softmax over
    their channels, both as means over the cells that lie in the volumes, (B, d, h, w)."""
    own, wanted = (maps.movedim(1, -1)[inside] for maps in (student, teacher))
    divergence = F.kl_div(
        own.log_softmax(dim=-1), wanted.log_softmax(dim=-1), reduction="batchmean", log_target=True
    )
    return F.l1_loss(own, wanted) + divergence


@torch.no_grad()
def mutual_ema(one: nn.Module, other: nn.Module, momentum: float) -> None:
    """Both networks, of the same shapes, become moving averages of each other, at the same time.

    After n of these steps and nothing else their sum is what it was, and their difference is
    (2 momentum - 1)^n of what it was.
    """
    for own, others in zip(one.parameters(), other.parameters(), strict=True):
        before = own.clone()
        own.lerp_(others, 1 - momentum)
        others.lerp_(before, 1 - momentum)
