"""The quality gate: which predictions may be learned from."""

from __future__ import annotations

import torch
from torch import Tensor

from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions


def confident_structures(scores: Tensor, options: SegmentOptions) -> list[int]:
    """Indices of the structures whose S_cf (N,) passes gamma; all of them when blind.

    An empty prediction has a high S_cf only where nothing comes close to being the structure
    (`slice_confidence`). Then it is a true negative: it is remembered as one, which keeps the
    structure from leaking past its end. A missed structure does not pass.
    """
    if options.update == "always":
        return list(range(len(scores)))
    return torch.nonzero(scores > options.gamma).flatten().tolist()
