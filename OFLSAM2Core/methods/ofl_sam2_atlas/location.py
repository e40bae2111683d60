"""Where a volume is predicted, and the prior there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Pose
from OFLSAM2Core.methods.ofl_sam2_atlas.encoded import EncodedWindow
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.slice_position.regression import PositionScale


@dataclass(frozen=True)
class Location:
    """Where a volume is predicted.

    first, stop: slices that are predicted in any case. statistics_slices: slices from which feature
    statistics are taken. scale: slice positions, None where they are not known. prior: on the
    atlases' grid, None where there is none or registration failed. agreement: Dice of the prior and
    the prediction without it, mean of the structures.
    """

    encoded: EncodedWindow
    first: int
    stop: int
    statistics_slices: tuple[int, ...]
    scale: PositionScale | None
    prior: AtlasPrior | None
    pose: Pose | None
    agreement: float = float("nan")

    def slice_position_of(self, index: int, spacing: float) -> float | None:
        """The slice position of a canonical slice; None where it is not known. spacing: mm between
        slices."""
        return None if self.scale is None else self.scale.slice_position(index * spacing)


def prior_in_window(prior: AtlasPrior | None, index: int, framing: Letterbox) -> Tensor | None:
    """The prior of a slice on the grid of the encoder's image, (N, S, S); 0 beside the slice."""
    if prior is None:
        return None
    top, bottom, left, right = framing.region
    row, row_end, column, column_end = framing.box
    at = torch.arange(framing.size) + 0.5
    rows = top + (at - row) * (bottom - top) / (row_end - row) - 0.5
    columns = left + (at - column) * (right - left) / (column_end - column) - 0.5
    steps, middle = prior.slicing.steps, prior.middle
    places = torch.stack(
        torch.meshgrid(
            torch.tensor([index * steps[0] - middle[0]]),
            rows * steps[1] - middle[1],
            columns * steps[2] - middle[2],
            indexing="ij",
        ),
        dim=-1,
    )
    found = prior.grid.at(prior.shares[None], places[None].float(), "zeros")[0, :, 0]
    inside = torch.zeros(framing.size, framing.size)
    inside[row:row_end, column:column_end] = 1
    return found * inside
