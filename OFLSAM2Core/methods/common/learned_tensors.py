"""What was trained of a network, as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def learned_tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters that are trained, each under one name."""
    return {name: own.detach() for name, own in network.named_parameters() if own.requires_grad}


@torch.no_grad()
def set_learned_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse. Raises KeyError where one is missing, RuntimeError where a shape is another."""
    for name, own in network.named_parameters():
        if own.requires_grad:
            own.copy_(tensors[name])
