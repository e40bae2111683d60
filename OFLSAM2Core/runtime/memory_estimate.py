"""How much memory a job is expected to take beyond what the process holds, before it starts.

The figures are of the method `ofl-sam2-atlas` and the backbone `litemedsam` on a CPU, of
structures that reach through nearly all slices. What each term stands for is known from the code;
Testing/Accuracy/memory_model.py measures how far the sum is off (docs/reliability.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BASE_BYTES = 900_000_000
"""PyTorch, the backbone and its compiled encoder, a task, and the work on one slice: what is
measured, less the other terms, is 0.75 to 0.95 GB."""

SIDE = 256
"""Pixels along the image that the network sees of a slice, at most."""

_FEATURES = 34
"""Bytes a pixel of that image: 256 channels in half precision at a sixteenth of the positions, and
as fine detail one channel at all of them."""

_SMOOTHING = 12
"""Bytes a pixel, for one structure at a time, of all slices: three arrays in single precision."""

_COPIES = 5
"""Bytes a pixel and structure: probabilities of one byte as predicted, before and after fusing, of
the prior, and judged by intensities, which are held together (Testing/Accuracy/memory_of_fusing.py
measures 4.8 to 5.0)."""

_REGISTERED = 30_000_000
"""Bytes a structure: its prediction and its labels, by which atlases are registered."""

_ENCODED = 300
"""Slices and copies that are encoded to learn from, with masks and priors."""

_TRAINING = 4000
"""Bytes a pixel, of a step of training: eight slices at once, and all that the gradient needs."""

_EQUATIONS = 39_000_000
"""Bytes a structure and support volume: its normal equations without each case, and their solution
in double precision."""

_RESULT_BYTES = 2
"""Labels and confidence, of every voxel."""


def not_yet_held(needed: float) -> float:
    """What is left to be taken of an estimate that begins with BASE_BYTES: this process, which may
    have imported PyTorch and loaded the backbone, holds some of those already."""
    import psutil  # a worker says by itself that it is missing, and imports this before

    held = psutil.Process().memory_info().rss
    return max(0.0, needed - min(held, BASE_BYTES))


def bytes_to_segment(
    shape: Sequence[int],
    itemsize: int,
    structures: int,
    slices: int | None = None,
    side: int = SIDE,
) -> int:
    """shape: of the volume's array. itemsize: bytes of a voxel. slices: as it will be cut; None:
    along the array's first axis, as scans are stored. side: of the network's image, pixels."""
    slices = shape[0] if slices is None else slices
    return (
        BASE_BYTES
        + math.prod(shape) * (itemsize + _RESULT_BYTES)
        + slices * side**2 * (_FEATURES + _SMOOTHING + structures * _COPIES)
        + structures * _REGISTERED
    )


def bytes_to_learn(
    volumes: Iterable[tuple[int, int]],
    structures: int = 1,
    side: int = SIDE,
    encoded: int = _ENCODED,
) -> int:
    """volumes: (voxels, bytes of a voxel) of each support volume, all of which are held with their
    labels and what is made of both. structures, side: as in `bytes_to_segment`. encoded: slices and
    copies that are learned from."""
    held = [voxels * (itemsize + 4) for voxels, itemsize in volumes]
    return (
        BASE_BYTES
        + sum(held)
        + side**2 * (_TRAINING + encoded * (_FEATURES + 2 * structures))
        + len(held) * structures * _EQUATIONS
    )
