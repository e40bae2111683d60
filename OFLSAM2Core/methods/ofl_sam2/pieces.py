"""Which pieces belong to a structure, as the support shows it.

Of a structure that is in one piece in every support case, small other pieces are strays. Where
structures always touch (the right ventricle and the myocardium), a piece that touches nothing is
one too, however large it is: spleens were drawn as right ventricles
(docs/experiments/other-sets.md). So is a piece in which the mapping network finds nothing, where it
finds the structure in another: skin was drawn as prostate (docs/decisions/0017).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from OFLSAM2Core.large_pieces import large_pieces
from OFLSAM2Core.metrics import bounding_box

STRAY = 0.5
"""Pieces smaller than this share of the largest are strays. Of two large ones nobody knows which
is meant: both stay, for the user to see."""

NOT_FOUND = 0.1
"""Pieces of which the mapping network finds less than this share, voxel by voxel, of what it finds
of the piece that it finds most of, are strays. Of a coil in the rectum it finds a fifth to three
times as much as of the prostate, of skin nothing."""

UNFOUND = 3
"""Of 255, added to what it finds in a voxel. Of thin organs it finds so little that it says nothing
of their pieces."""

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
    where it is sure. A structure of which hardly anything touches its neighbours is left as it is:
    then these may be what is wrong.
    """
    believed = [
        _found_pieces(mask, found[n]) if one and found is not None else mask
        for n, (mask, one) in enumerate(zip(masks, single, strict=True))
    ]
    large = [
        large_pieces(mask, STRAY, _NEIGHBOURS) if one else mask
        for mask, one in zip(believed, single, strict=True)
    ]
    gone = []
    for drawn, mask, one, others in zip(masks, believed, single, touched, strict=True):
        kept = mask
        if others:
            pieces, _ = ndimage.label(mask, _NEIGHBOURS)
            meeting = _meeting(pieces, _grown(np.any([large[other] for other in others], axis=0)))
            kept = meeting if meeting.sum() > ENOUGH * mask.sum() else mask
        gone.append(drawn & ~(large_pieces(kept, STRAY, _NEIGHBOURS) if one else kept))
    return gone


def _found_pieces(
    mask: npt.NDArray[np.bool_], found: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """The pieces that are not strays by NOT_FOUND."""
    pieces, count = ndimage.label(mask, _NEIGHBOURS)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    total = np.bincount(pieces.ravel(), found.ravel()) + UNFOUND * sizes
    sizes[0], total[0] = 1, 0
    each = total / sizes
    return (each >= NOT_FOUND * each[total.argmax()])[pieces] & mask


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
