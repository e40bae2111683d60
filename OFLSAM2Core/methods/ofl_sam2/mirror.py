"""Whether a slice in a mirror could be another patient's, as the support shows it.

Prostates and necks are alike on both sides, atria and hippocampi are not. Where they are, half of
the augmented copies are mirrored (docs/decisions/0018), and what is on the left is then on the
right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.base import SupportSlices
from OFLSAM2Core.metrics import bounding_box
from OFLSAM2Core.structures import Structure

SIDE = 32
"""Cells along each side of the box around a case's structures, in which cases are compared."""

LEFT_TO_RIGHT = ("axial", "coronal")
"""Along these axes a slice's columns run from one side of the body to the other."""

AS_ALIKE = 0.9
"""Overlap of mirrored cases with others, of the overlap without a mirror. On prostates and necks it
is 0.98 and more, on atria, hippocampi and hearts 0.8 and less."""

BESIDE = 0.5
"""Of the box's width: structures that a mirror moves farther, on average, are on one side. A kidney
is alike in a mirror, but not where it is."""


def mirror_partners(
    support: Sequence[SupportSlices], structures: Sequence[Structure]
) -> npt.NDArray[np.intp] | None:
    """Of each structure, the number of the one that it is in a mirror, (N,): mostly itself, of the
    left parotid gland the right one. None where mirrored slices are unlike the other cases, or
    there is no other case."""
    if support[0].slicing.world_axis not in LEFT_TO_RIGHT:
        return None
    cases = [_Boxed.of(case, structures) for case in support]
    pairs = list(permutations(cases, 2))
    if not pairs:
        return None
    straight = _mean([_overlaps(one.cells, other.cells) for one, other in pairs])
    mirrored = _mean([_overlaps(one.cells.flip(-1), other.cells) for one, other in pairs])
    most, partners = mirrored.max(dim=1)
    are_pairs = torch.equal(partners[partners], torch.arange(len(structures)))
    as_alike = bool(most.sum() > AS_ALIKE * straight.diagonal().sum())
    moved = np.mean([abs(one.middle + other.middle) for one, other in pairs])
    is_there = moved < BESIDE * np.mean([case.width for case in cases])
    return partners.numpy() if are_pairs and as_alike and is_there else None


def in_mirror(
    image: npt.NDArray[np.float32],
    masks: npt.NDArray[np.float32],
    partners: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of image (3, S, S) and masks (N, S, S): columns from last to first, and each mask that of its
    partner."""
    return (
        np.ascontiguousarray(image[..., ::-1]),
        np.ascontiguousarray(masks[partners][..., ::-1]),
    )


@dataclass(frozen=True)
class _Boxed:
    """The box around a case's structures, of what the network is shown.

    cells: shares that are a structure's, (N, SIDE, SIDE, SIDE). middle: of the box, in columns to
    the right of the image's own. width: in columns.
    """

    cells: Tensor
    middle: float
    width: int

    @classmethod
    def of(cls, case: SupportSlices, structures: Sequence[Structure]) -> _Boxed:
        full = np.flatnonzero(case.labels.any(axis=(1, 2)))
        chosen = np.linspace(full[0], full[-1], SIDE).round().astype(int)
        masks = np.stack(
            [
                [case.prepared.mask_to_network(case.labels[index], each.label) for index in chosen]
                for each in structures
            ]
        )
        _, rows, columns = bounding_box(masks.max(axis=0) > 0)
        cells = F.adaptive_avg_pool3d(torch.from_numpy(masks[:, :, rows, columns]), SIDE)
        middle = (columns.start + columns.stop - masks.shape[-1]) / 2
        return cls(cells, middle, columns.stop - columns.start)


def _mean(overlaps: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(overlaps)).mean(dim=0)


def _overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Dice of shares: of each structure of one case with each of the other, (N, N)."""
    first, second = one.flatten(1)[:, None], other.flatten(1)[None]
    both = torch.minimum(first, second).sum(dim=-1)
    return 2 * both / (first.sum(dim=-1) + second.sum(dim=-1)).clamp(min=1e-6)
