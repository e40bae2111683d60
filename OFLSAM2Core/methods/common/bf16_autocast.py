"""Training in bfloat16, on processors that multiply matrices of it by themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from OFLSAM2Core.runtime.device import has_matrix_tiles


def bf16_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which a small network's step takes about half of the time where there is
    hardware for it; elsewhere it changes nothing. What is lost are digits of a gradient that comes
    from a few slices drawn by chance; the network reads a volume in single precision."""
    if not has_matrix_tiles(device):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
