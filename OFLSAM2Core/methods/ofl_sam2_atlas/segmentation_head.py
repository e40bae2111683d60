"""The readout: logits from features, both branches and places together.

The decoder is frozen and dear: in the time of one slice through it, forth and back, this sees six.
So what three cases teach about borders is learned here, on features that stay as they are, and the
decoder's logits are added. docs/decisions/0007 has what each is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures
from OFLSAM2Core.methods.common.high_pass import BLOCK
from OFLSAM2Core.methods.common.mapping_network import PcaFeatureMap
from OFLSAM2Core.methods.common.unet import UNet
from OFLSAM2Core.slice_position.regression import SlicePosition

WIDTH = 32
"""Channels on the features' grid; twice and three times as many on the coarser ones."""

SURE = (1.0, 3.0)
"""Logits of what attention and the mapping network are sure of, before training."""

GENTLE = 0.1
"""How much the decoder counts before training, where the branches' masks can be read as they are
(LiteMedSAM)."""


class SegmentationHead(nn.Module):
    """Logits of all N structures of B slices.

    What the mapping network says is read by itself (it alone reaches a Dice of 0.83 on left atria
    before anything is trained), and by a small U-Net that sees besides the features, the places
    and the other structures. What the decoder and memory say is added.
    """

    def __init__(
        self,
        channels: int,
        memory_channels: int,
        structures: int,
        *,
        memory_is_mask: bool,
        reads_attended: bool,
        in_volumes: bool,
        uses_atlas_prior: bool = False,
    ) -> None:
        """channels: of what is seen of a slice (`head_inputs`). reads_attended: whether what
        attention returns are memory features. in_volumes: whether there are places, and so the
        U-Net; the few frames of a video would teach it where things are, and things move.
        hears_votes: whether the U-Net is told what support cases say that have been laid over the
        volume."""
        super().__init__()
        self.of_position = (structures, memory_channels)
        sure_attended, sure_mapped = SURE if memory_is_mask else (0.0, 0.0)
        self.mapped = _shortcut(memory_channels, sure_mapped)
        self.attended = _shortcut(memory_channels, sure_attended) if reads_attended else None
        self.decoder_gain = nn.Parameter(torch.tensor(GENTLE if memory_is_mask else 1.0))
        self.uses_atlas_prior = in_volumes and uses_atlas_prior
        self.u_net = None
        if in_volumes:
            inputs = channels + structures * memory_channels
            if uses_atlas_prior:
                inputs += structures * BLOCK**2
            self.u_net = UNet(inputs, structures * BLOCK**2, WIDTH)

    @classmethod
    def for_backbone(
        cls, backbone: Backbone, head: PcaFeatureMap, structures: int, uses_atlas_prior: bool
    ) -> SegmentationHead:
        return cls(
            head.basis.shape[0] + BLOCK**2,
            backbone.memory_channels,
            structures,
            memory_is_mask=backbone.memory_is_mask,
            reads_attended=backbone.attended_channels == backbone.memory_channels,
            in_volumes=head.with_places,
            uses_atlas_prior=uses_atlas_prior,
        )

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        backbone: Backbone,
        head: PcaFeatureMap,
        structures: int,
    ) -> SegmentationHead:
        """Of a learned task. Those learned before votes were heard, or without any, do not. Raises
        RuntimeError when something is missing or of another shape."""
        readout = cls.for_backbone(backbone, head, structures, uses_atlas_prior=False)
        enter = tensors.get("u_net.enter.weight")
        u_net = readout.u_net
        if u_net is not None and enter is not None and enter.shape != u_net.enter.weight.shape:
            readout = cls.for_backbone(backbone, head, structures, uses_atlas_prior=True)
        readout.load_state_dict(dict(tensors))
        return readout.eval().requires_grad_(False).to(backbone.device)

    def forward(
        self,
        seen: Tensor,
        levels: Sequence[SlicePosition],
        mapped: Tensor | None,
        voted: Tensor | None = None,
    ) -> Tensor:
        """(B, N, 4h, 4w), without decoder and memory.

        seen: (B, F, h, w), `head_inputs` slices at `levels`. mapped: (B, N, M, h, w),
        what the mapping network says; None where that branch is switched off. voted: (B, N, 4h,
        4w), what support cases say, zeros where they have not been asked; None: of no slice.
        """
        count = len(seen)
        if mapped is None:
            mapped = seen.new_zeros(count, *self.of_position, *seen.shape[-2:])
        found = self.mapped(mapped.flatten(0, 1))
        if self.u_net is not None:
            inputs = torch.cat([seen, mapped.flatten(1, 2)], dim=1)
            if self.uses_atlas_prior:
                if voted is None:
                    side = BLOCK * seen.shape[-1]
                    voted = seen.new_zeros(count, self.of_position[0], side, side)
                inputs = torch.cat([inputs, F.pixel_unshuffle(voted, BLOCK)], dim=1)
            found = found + self.u_net(inputs, levels).view_as(found)
        return F.pixel_shuffle(found, BLOCK).unflatten(0, (count, -1))[:, :, 0]

    def with_decoder(
        self, read: Tensor, structures: list[int], decoded: Tensor, attended: Tensor | None
    ) -> Tensor:
        """`read` (N, 4h, 4w) of one slice, with more added for n `structures`: the decoder's
        logits (n, 4h, 4w), and the memory features that attention read out (n, M, h, w), if it
        does."""
        more = self.decoder_gain * decoded
        if self.attended is not None and attended is not None:
            more = more + F.pixel_shuffle(self.attended(attended), BLOCK)[:, 0]
        return read.index_add(0, torch.tensor(structures, device=read.device), more)


def head_inputs(features: Sequence[ImageFeatures], head: PcaFeatureMap) -> Tensor:
    """What the readout sees of slices: their features' components and fine detail, (B, F, h, w)."""
    both = []
    for each in features:
        assert each.detail is not None
        both.append(torch.cat([head(each.normalized_embedding), each.detail[0]]))
    return torch.stack(both)


def mapping_probability(mapped: Tensor) -> Tensor:
    """What the mapping network finds by itself, (..., N, 4h, 4w), from the memory features
    (..., N, M, h, w) that it makes, of a backbone whose memory features are masks: 1 where it is
    sure of a structure, 0 where that is no likelier than not."""
    return F.pixel_shuffle(mapped, BLOCK).squeeze(-3).clamp(0, 1)


def _shortcut(memory_channels: int, sure: float) -> nn.Conv2d:
    """From memory features to the BLOCK x BLOCK pixels of a position; masks as they are, times
    `sure`."""
    layer = nn.Conv2d(memory_channels, BLOCK**2, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    if sure:
        layer.weight.data[:, :, 0, 0] = sure * torch.eye(BLOCK**2)
    return layer
