"""Which components belong to a structure, as the support shows it.

Where a structure is a single component in every support case, small other components are spurious.
Where structures always touch (the right ventricle and the myocardium), a component that touches
nothing is spurious too, however large it is: spleens were predicted as right ventricles
(docs/experiments/other-sets.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from OFLSAM2Core.data.overlap import bounding_box

STRAY = 0.5
"""Components smaller than this share of the largest are spurious. Where two are large, it is not
known which is right: both stay, for the user to see."""

ENOUGH = 0.25
"""Share of a structure's voxels that must lie in components that touch its neighbours, for the
others to count as spurious. A speck that touches is not enough."""

NEARLY_ALL = 0.99
"""Share of a structure's voxels that counts as all of them: an annotator's stray voxel is no second
component."""

_NEIGHBOURS = np.ones((3, 3, 3), bool)
"""Diagonal neighbours are connected, and touch."""


def is_single_component(labels: Sequence[npt.NDArray], label: int) -> bool:
    """Whether nearly all of a structure is one component in every support case that has it."""
    masks = [volume == label for volume in labels]
    pieces = [_Pieces.of(mask) for mask in masks if mask.any()]
    return all(own.sizes.max() >= NEARLY_ALL * own.sizes.sum() for own in pieces)


def adjacent_structures(
    labels: Sequence[npt.NDArray], structures: Sequence[int]
) -> list[list[int]]:
    """For each structure, the numbers of those that its components touch in every support case.

    labels: of each case, (slices, rows, columns). structures: their values in it.
    """
    count = len(structures)
    both, touch = np.zeros((count, count), int), np.zeros((count, count), int)
    for volume in labels:
        inside = volume[bounding_box(volume > 0)]
        masks = [inside == label for label in structures]
        grown = [_grown(mask) for mask in masks]
        for own, mask in enumerate(masks):
            pieces = _Pieces.of(mask)
            for other in range(count):
                if other != own and mask.any() and masks[other].any():
                    both[own, other] += 1
                    touch[own, other] += (
                        pieces.share(pieces.meeting(grown[other][pieces.box])) >= NEARLY_ALL
                    )
    return [[int(other) for other in np.flatnonzero(row)] for row in (both > 0) & (touch == both)]


def spurious_components(
    masks: Iterable[npt.NDArray[np.bool_]],
    single: Sequence[bool],
    touched: Sequence[Sequence[int]],
) -> Iterator[Voxels]:
    """The voxels of each structure that do not belong to it.

    masks: (slices, rows, columns) each, as predicted. single: whether `is_single_component`.
    touched: as `adjacent_structures` gives it. A structure of which hardly anything touches its
    neighbours is left as it is: then these may be what is wrong.

    Memory: a mask is kept as the box that holds it, since a volume of 30 structures has as many.
    """
    pieces = [_Pieces.of(mask) for mask in masks]
    large = [
        own.large(own.all()) if one else own.all() for own, one in zip(pieces, single, strict=True)
    ]
    for own, one, others in zip(pieces, single, touched, strict=True):
        kept = own.all()
        if others:
            beside = own.beside([pieces[other].voxels(large[other]) for other in others])
            meeting = kept & own.meeting(beside)
            if own.share(meeting) > ENOUGH * own.share(kept):
                kept = meeting
        if one:
            kept = own.large(kept)
        yield own.voxels(own.all() & ~kept)


@dataclass(frozen=True, eq=False)
class Voxels:
    """Some voxels of a volume: those that are set in `voxels`, which has the shape of `box`."""

    box: tuple[slice, ...]
    voxels: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Pieces:
    """The connected components of a mask.

    box: the part of the volume that holds the mask, and a voxel more on each side. numbers: each
    voxel's component, (slices, rows, columns) of the box, 0 outside. sizes: voxels of each
    component, by number; that of 0 is 0. A choice of components is a flag for each number, never
    set for 0.
    """

    box: tuple[slice, ...]
    numbers: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> _Pieces:
        box = bounding_box(mask, 1) if mask.any() else (slice(0, 0),) * mask.ndim
        numbers, _ = ndimage.label(mask[box], _NEIGHBOURS)
        sizes = np.bincount(numbers.ravel(), minlength=1)
        sizes[0] = 0
        return cls(box, numbers, sizes)

    def voxels(self, flags: npt.NDArray[np.bool_]) -> Voxels:
        """The voxels of some components."""
        return Voxels(self.box, flags[self.numbers])

    def beside(self, others: Sequence[Voxels]) -> npt.NDArray[np.bool_]:
        """Voxels of the box that belong to others or touch them. The mask has a voxel of the box
        around it, so what touches it lies in the box."""
        found = np.zeros(self.numbers.shape, bool)
        for other in others:
            ours, theirs = _overlap(self.box, other.box), _overlap(other.box, self.box)
            found[ours] |= other.voxels[theirs]
        return _grown(found) if found.any() else found

    def all(self) -> npt.NDArray[np.bool_]:
        return self.sizes > 0

    def share(self, flags: npt.NDArray[np.bool_]) -> float:
        """Share of the mask's voxels that lie in some components; 0 for an empty mask."""
        return float(self.sizes[flags].sum() / max(self.sizes.sum(), 1))

    def large(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Those of them that are no spurious components by STRAY."""
        return flags & (self.sizes >= STRAY * self.sizes[flags].max(initial=0))

    def meeting(self, grown: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Those that have a voxel in `grown`."""
        met = np.zeros(len(self.sizes), bool)
        met[self.numbers[grown]] = True
        return met & self.all()


def _overlap(box: tuple[slice, ...], other: tuple[slice, ...]) -> tuple[slice, ...]:
    """Where another box lies within a box, counted from the beginning of the latter."""
    overlap = []
    for own, their in zip(box, other, strict=True):
        low, high = max(own.start, their.start), min(own.stop, their.stop)
        overlap.append(slice(low - own.start, max(low, high) - own.start))
    return tuple(overlap)


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """By one voxel. Filters go axis by axis, so this is faster than a dilation."""
    return ndimage.maximum_filter(mask, 3, mode="constant")
