"""Training in bfloat16, on processors that multiply matrices of it by themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def quick_training(device: torch.device) -> AbstractContextManager[object]:
    """A context in which a small network's step takes about half of the time where there is
    hardware for it; elsewhere it changes nothing. What is lost are digits of a gradient that comes
    from a few slices drawn by chance; whatever a volume is read by stays in single precision."""
    if not has_matrix_tiles(device):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def has_matrix_tiles(device: torch.device) -> bool:
    """Whether this is a processor with matrix tiles (Intel's AMX)."""
    return device.type == "cpu" and bool(
        # Not documented by PyTorch: without it training is slower, and that is all.
        getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )
