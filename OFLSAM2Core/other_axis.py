"""Whether slices along another axis are shown besides, and along which.

They are worth it where they show as much: where voxels are about as deep as they are wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.metrics import bounding_box
from OFLSAM2Core.slicing import Slicing

MOST_UNEVEN = 1.5
"""Longest side of a voxel, of its shortest."""


class OtherAxis(NamedTuple):
    """axis: a world axis. pixel: millimetres a network pixel in slices along it."""

    axis: str
    pixel: float


def wanted_axis(labels: Sequence[npt.NDArray], slicings: Sequence[Slicing]) -> str | None:
    """The other world axis along which the structures are shortest, which so takes the fewest
    slices; None where voxels are uneven.

    labels: of each support case, canonical slices (S, H, W), 0 where nothing is.
    """
    if not all(is_even(slicing) for slicing in slicings):
        return None
    lengths = [_lengths(own, slicing) for own, slicing in zip(labels, slicings, strict=True)]
    rows, columns = np.mean(lengths, axis=0)
    _, along_rows, along_columns = slicings[0].world_axes
    return along_rows if rows < columns else along_columns


def is_even(slicing: Slicing) -> bool:
    """Whether voxels are about as deep as they are wide."""
    return max(slicing.steps) <= MOST_UNEVEN * min(slicing.steps)


def _lengths(labels: npt.NDArray, slicing: Slicing) -> list[float]:
    """Of all structures together, mm along rows' and columns' direction."""
    box = bounding_box(np.asarray(labels > 0))[1:]
    pixels = [len(range(*each.indices(n))) for each, n in zip(box, labels.shape[1:], strict=True)]
    return [n * step for n, step in zip(pixels, slicing.spacing_in_plane, strict=True)]
