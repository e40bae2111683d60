"""Which pieces belong to a structure, as the support shows it.

Of a structure that is in one piece in every support case, small other pieces are strays. Where
structures always touch (the right ventricle and the myocardium), a piece that touches nothing is
one too, however large it is: spleens were drawn as right ventricles
(docs/experiments/other-sets.md). Which piece is the structure, its size does not tell where a
prostate is drawn and a coil in the rectum too: so what the mapping network finds there by itself
counts (docs/decisions/0017).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from OFLSAM2Core.large_pieces import large_pieces
from OFLSAM2Core.metrics import bounding_box

STRAY = 0.5
"""Pieces that weigh less than this share of the heaviest are strays. Of two heavy ones nobody knows
which is meant: both stay, for the user to see."""

UNFOUND = 5
"""What a voxel weighs in which the mapping network does not find the structure, where one in which
it does weighs up to 255. Of thin organs it finds little: then their size decides."""

ENOUGH = 0.25
"""Of a structure's voxels, in pieces that touch its neighbours: the others are taken for strays
then. A speck that touches says nothing of the rest."""

NEARLY_ALL = 0.99
"""Of a structure's voxels: an annotator's stray voxel is no second piece."""

_NEIGHBOURS = np.ones((3, 3, 3), bool)
"""Diagonal neighbours hang together, and touch."""


def in_one_piece(labels: Sequence[npt.NDArray], label: int) -> bool:
    """Whether nearly all of a structure hangs together in every support case that has it."""
    masks = [volume == label for volume in labels]
    return all(
        _share(mask, large_pieces(mask, 1.0, _NEIGHBOURS)) >= NEARLY_ALL
        for mask in masks
        if mask.any()
    )


def neighbours(labels: Sequence[npt.NDArray], structures: Sequence[int]) -> list[list[int]]:
    """Of each structure, the numbers of those that its pieces touch in every support case.

    labels: of each case, (slices, rows, columns). structures: their values in it.
    """
    count = len(structures)
    both, touch = np.zeros((count, count), int), np.zeros((count, count), int)
    for volume in labels:
        inside = volume[bounding_box(volume > 0)]
        masks = [inside == label for label in structures]
        grown = [_grown(mask) for mask in masks]
        for own, mask in enumerate(masks):
            pieces, _ = ndimage.label(mask, _NEIGHBOURS)
            for other in range(count):
                if other != own and mask.any() and masks[other].any():
                    both[own, other] += 1
                    touch[own, other] += _share(mask, _meeting(pieces, grown[other])) >= NEARLY_ALL
    return [[int(other) for other in np.flatnonzero(row)] for row in (both > 0) & (touch == both)]


def strays(
    masks: Sequence[npt.NDArray[np.bool_]],
    single: Sequence[bool],
    touched: Sequence[Sequence[int]],
    found: Sequence[npt.NDArray[np.uint8]] | None = None,
) -> list[npt.NDArray[np.bool_]]:
    """The voxels of each structure that do not belong to it.

    masks: (slices, rows, columns) each, as drawn. single: whether `in_one_piece`. touched: as
    `neighbours` gives it. found: where the mapping network finds each, of the masks' shape, 255
    where it is sure; voxels weigh the same without it. A structure of which hardly anything touches
    its neighbours is left as it is: then these may be what is wrong.
    """
    weights = [
        None if found is None else UNFOUND + found[n].astype(np.uint16) for n in range(len(masks))
    ]
    large = [
        large_pieces(mask, STRAY, _NEIGHBOURS, weight) if one else mask
        for mask, one, weight in zip(masks, single, weights, strict=True)
    ]
    gone = []
    for mask, one, others, weight in zip(masks, single, touched, weights, strict=True):
        kept = mask
        if others:
            pieces, _ = ndimage.label(mask, _NEIGHBOURS)
            meeting = _meeting(pieces, _grown(np.any([large[other] for other in others], axis=0)))
            kept = meeting if meeting.sum() > ENOUGH * mask.sum() else mask
        gone.append(mask & ~(large_pieces(kept, STRAY, _NEIGHBOURS, weight) if one else kept))
    return gone


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """By one voxel. Filters go axis by axis, so this is faster than a dilation."""
    return ndimage.maximum_filter(mask, 3, mode="constant")


def _meeting(pieces: npt.NDArray, grown: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The numbered pieces that have a voxel in `grown`."""
    met = np.zeros(pieces.max() + 1, bool)
    met[pieces[grown]] = True
    met[0] = False
    return met[pieces]


def _share(whole: npt.NDArray[np.bool_], part: npt.NDArray[np.bool_]) -> float:
    return part.sum() / whole.sum()
