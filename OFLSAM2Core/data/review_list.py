"""Which slices to look at first: those with the most voxels in doubt, and not side by side.

Neighbouring slices show nearly the same, and are doubtful for the same reason. Whoever has seen one
of them learns little from the next, and so does a method that is corrected there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

REACH = 0.1
"""Share of a structure's height for which a listed slice stands on either side. A tenth of the
slices is also what a person is expected to look at (docs/accuracy.md); no measurement chose it."""


class Doubted(Protocol):
    """A slice as it is listed.

    index: along the axis of slices. doubt: expected wrong voxels, by the confidence.
    scores: S_cf by structure name; empty where there is no structure.
    frame: of a sequence of volumes, from 0; slices of different frames are no neighbours.
    """

    @property
    def index(self) -> int: ...

    @property
    def doubt(self) -> float: ...

    @property
    def scores(self) -> Mapping[str, float]: ...

    @property
    def frame(self) -> int: ...


S = TypeVar("S", bound=Doubted)


def doubted_structure(scores: Mapping[str, float]) -> str:
    """The structure with the lowest confidence in the slice; "" where there is none."""
    return min(scores, key=lambda name: scores[name], default="")


def slices_to_review(slices: Iterable[S], count: int) -> list[S]:
    """At most `count` slices, the one to look at first in front.

    The most doubtful one comes first. From then on the doubt of a slice counts in proportion to its
    distance from the nearest listed one of the same structure (the one that it is least sure of),
    and in full from a tenth of that structure's height on. Distances are shares of that height, so
    that it does not matter how thin slices are. Direct neighbours are not listed, unless they are
    of different structures; nor are slices without a structure. The first so many of a longer list
    are the shorter list.
    """
    slices = sorted((one for one in slices if one.scores), key=lambda one: (one.frame, one.index))
    if not slices:
        return []
    index = np.array([one.index for one in slices], float)
    frame = np.array([one.frame for one in slices])
    structure = np.array([doubted_structure(one.scores) for one in slices])
    reach = REACH * _heights(slices, structure)
    doubt = np.array([one.doubt for one in slices], float)
    # How much of it counts: nothing of what is listed, or lies beside that.
    counting = np.ones(len(slices))
    listed: list[S] = []
    while len(listed) < count:
        left = np.where(counting > 0, counting * doubt, -1.0)
        best = int(left.argmax())
        if left[best] < 0:
            break
        listed.append(slices[best])
        alike = (structure == structure[best]) & (frame == frame[best])
        distance = np.abs(index - index[best])
        share = np.where(distance > 1, np.minimum(1.0, distance / reach), 0.0)
        counting[alike] = np.minimum(counting, share)[alike]
        counting[best] = 0.0
    return listed


def _heights(slices: list[S], structure: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    """For each slice, how many slices its structure reaches over in its frame; 1 or more."""
    ends: dict[tuple[int, str], tuple[int, int]] = {}
    for one in slices:
        for name in one.scores:
            first, last = ends.get((one.frame, name), (one.index, one.index))
            ends[one.frame, name] = (min(first, one.index), max(last, one.index))
    spans = (ends[one.frame, str(name)] for one, name in zip(slices, structure, strict=True))
    return np.array([last - first + 1 for first, last in spans], float)
