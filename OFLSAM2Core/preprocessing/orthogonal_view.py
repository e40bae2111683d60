"""Whether slices along the other two axes are shown besides.

They are worth it where they show as much: where voxels are about as deep as they are wide.
"""

from __future__ import annotations

from typing import NamedTuple

from OFLSAM2Core.data.slice_geometry import SliceGeometry

MOST_UNEVEN = 1.5
"""Longest side of a voxel, of its shortest."""


class OrthogonalView(NamedTuple):
    """axis: a world axis. pixel: millimetres a network pixel in slices along it."""

    axis: str
    pixel: float


def is_near_isotropic(slicing: SliceGeometry) -> bool:
    """Whether voxels are about as deep as they are wide."""
    return max(slicing.steps) <= MOST_UNEVEN * min(slicing.steps)
