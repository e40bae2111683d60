"""Overlap of masks, and the box that holds one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def dice(truth: npt.NDArray, prediction: npt.NDArray) -> float:
    """Twice the overlap over the sum of sizes; nan where both are empty. Any shape."""
    truth, prediction = as_masks(truth, prediction)
    total = np.count_nonzero(truth) + np.count_nonzero(prediction)
    if total == 0:
        return float("nan")
    return 2.0 * np.count_nonzero(truth & prediction) / total


def bounding_box(mask: npt.NDArray, room: int = 0) -> tuple[slice, ...]:
    """The box that holds all of a mask, with `room` voxels around it where the array goes on;
    everything where the mask is empty."""
    box = []
    for axis, length in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if len(found) == 0:
            return (slice(None),) * mask.ndim
        box.append(slice(max(0, int(found[0]) - room), min(length, int(found[-1]) + 1 + room)))
    return tuple(box)


def as_masks(truth: npt.NDArray, prediction: npt.NDArray) -> tuple[Mask, Mask]:
    """Both as booleans. Raises ValueError where their shapes differ."""
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth has the shape {truth.shape}, not {prediction.shape}")
    return truth.astype(bool, copy=False), prediction.astype(bool, copy=False)
