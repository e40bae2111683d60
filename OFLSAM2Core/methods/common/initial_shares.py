"""What a network predicts before it is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_SHARE = 1e-4
"""Share that a structure begins with at least: its logarithm has to be finite."""


@torch.no_grad()
def begin_at_shares(last: nn.Module, shares: Tensor) -> None:
    """Set the bias of a network's last convolution so that its softmax alone is these shares of all
    voxels, background and structures, (N + 1,).

    A new network gives every class about the same share, and a short training is spent on
    unlearning structures where there are none. Lin et al. (2017) begin a detector at the share of
    what is rare for the same reason.
    """
    bias = last.bias
    assert isinstance(bias, Tensor)
    bias.copy_(shares.clamp(min=LEAST_SHARE).log())
