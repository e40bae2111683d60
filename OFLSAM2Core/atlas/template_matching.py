"""Template matching: at which place a volume looks most like the atlases, moved but not deformed.

An exhaustive search over translations on a coarse grid, by sums of squared differences, which are
convolutions. It says where registration begins when nothing else is known of a volume.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SHOWN = 0.6
"""Share of the atlases' grid that must lie in the volume, of the most that does anywhere: a few
cells at an edge are easily alike."""


def best_translation(volume: Tensor, inside: Tensor, atlases: Tensor) -> tuple[int, int, int]:
    """The cell of the volume's grid that the middle cell of the atlases' grid fits best.

    volume: descriptors, (1, C, D, H, W). inside: which cells lie in the volume, (D, H, W) in
    [0, 1]. atlases: descriptors on grids of the same spacing, (S, C, d, h, w); the volume's grid is
    larger. Atlases are compared together, at the same place.
    """
    there = inside[None, None].to(volume)
    whole = torch.ones_like(atlases[:1, :1])
    compared = F.conv3d(there, whole)
    squares = (there * volume.square()).sum(dim=1, keepdim=True)
    apart = (
        F.conv3d(squares, whole)
        - 2 * F.conv3d(there * volume, atlases)
        + F.conv3d(there, atlases.square().sum(dim=1, keepdim=True))
    )
    apart = (apart.mean(dim=1) / compared[:, 0].clamp(min=1e-6))[0]
    enough = compared[0, 0] >= LEAST_SHOWN * compared.max()
    apart = torch.where(enough, apart, torch.inf)
    best = torch.unravel_index(apart.argmin(), apart.shape)
    depth, row, column = (
        int(at) + side // 2 for at, side in zip(best, atlases.shape[2:], strict=True)
    )
    return depth, row, column
