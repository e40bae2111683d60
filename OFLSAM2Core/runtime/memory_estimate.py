"""How much memory a job is expected to take beyond what the process holds, before it starts.

The figures are of the default method and backbone on a CPU. What each term stands for is known; the
constants are rounded up, since an estimate that is too low ends in the middle of the work.
Testing/Accuracy/memory_model.py measures what it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BASE_BYTES = 1_000_000_000
"""PyTorch, the backbone and its compiled encoder, a task, and the work on one slice."""

_BYTES_A_SLICE = 2_000_000
"""Features that are kept of a slice in half precision, of all stages together."""

_BYTES_A_SLICE_AND_STRUCTURE = 300_000
"""Probabilities of one byte on the network's 256 x 256 grid: as predicted, as smoothed, as fused,
and on the volume's own grid around the structure."""

_RESULT_BYTES = 2
"""Labels and confidence, of every voxel."""


def not_yet_held(needed: float) -> float:
    """What is left to be taken of an estimate that begins with BASE_BYTES: this process, which may
    have imported PyTorch and loaded the backbone, holds some of those already."""
    import psutil  # a worker says by itself that it is missing, and imports this before

    held = psutil.Process().memory_info().rss
    return max(0.0, needed - min(held, BASE_BYTES))


def bytes_to_segment(
    shape: Sequence[int], itemsize: int, structures: int, slices: int | None = None
) -> int:
    """shape: of the volume's array. itemsize: bytes of a voxel. slices: as it will be cut; None:
    along the array's first axis, as scans are stored."""
    slices = shape[0] if slices is None else slices
    return (
        BASE_BYTES
        + math.prod(shape) * (itemsize + _RESULT_BYTES)
        + slices * (_BYTES_A_SLICE + structures * _BYTES_A_SLICE_AND_STRUCTURE)
    )


def bytes_to_hold(volumes: Iterable[tuple[int, int]]) -> int:
    """Of support volumes that are held while they are learned from: (voxels, bytes of a voxel) of
    each, with its labels and what is made of both."""
    return BASE_BYTES + sum(voxels * (itemsize + 4) for voxels, itemsize in volumes)
