"""Low-rank adaptation (Hu et al. 2021) of a frozen encoder's attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.backbones.trainable import TrainableSam


class LoraLinear(nn.Module):
    """A frozen linear layer, to some of whose rows the product of two thin matrices is added.

    rows: groups of outputs, each with matrices of its own. The one towards the outputs is zero at
    first, so that nothing changes.
    """

    def __init__(self, frozen: nn.Linear, rows: Sequence[Tensor], rank: int) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.rows = tuple(rows)
        like = frozen.weight
        self.down = nn.ParameterList(like.new_empty(rank, like.shape[1]) for _ in rows)
        self.up = nn.ParameterList(like.new_zeros(len(group), rank) for group in rows)
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.frozen.weight
        for rows, down, up in zip(self.rows, self.down, self.up, strict=True):
            weight = weight.index_add(0, rows.to(weight.device), (up @ down).to(weight.dtype))
        return F.linear(x, weight, self.frozen.bias)


def add_lora(sam: TrainableSam, rank: int) -> None:
    """Freeze the encoder but for low-rank updates of queries and values in all its attention
    layers; the decoder is learned as a whole. PyTorch's generator decides the first values."""
    sam.encoder.requires_grad_(False)
    for attention in list(sam.attentions()):
        frozen = attention.layer.get_submodule("qkv")
        assert isinstance(frozen, nn.Linear)
        lora = LoraLinear(frozen, (attention.queries, attention.values), rank)
        attention.layer.add_module("qkv", lora)
    sam.decoder.requires_grad_(True)
    sam.no_prompt.requires_grad_(True)


def in_precision_of(backbone: Backbone) -> torch.autocast:
    """Where the frozen encoder calculates in bfloat16, so do its layers in training: a step takes
    0.6 of the time on a processor that has it."""
    quick = backbone.precision == "bfloat16"
    return torch.autocast(backbone.device.type, torch.bfloat16, enabled=quick)
