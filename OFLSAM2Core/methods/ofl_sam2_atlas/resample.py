"""From one window's image to another's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.preprocessing.letterbox import Letterbox


def resampled(maps: Tensor, of: Letterbox, onto: Letterbox) -> Tensor:
    """Probabilities (N, S, S) on the image of one window of a slice, on that of another (N, T, T);
    0 where the first does not show the slice."""
    if of == onto:
        return maps
    at = torch.arange(onto.size) + 0.5
    row, column = onto.point_on_slice(0.0, 0.0)
    row_end, column_end = onto.point_on_slice(float(onto.size), float(onto.size))
    first, first_column = of.point_in_network(row, column)
    last, last_column = of.point_in_network(row_end, column_end)
    rows = first + at * (last - first) / onto.size
    columns = first_column + at * (last_column - first_column) / onto.size
    # As `grid_sample` counts: -1 and 1 are the image's edges.
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)
    shown = 2 * grid[None].float() / of.size - 1
    return F.grid_sample(maps[None].float(), shown, align_corners=False)[0]
