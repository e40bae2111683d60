"""Voxels that are no numbers, as resampling and bias correction leave them, become background."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import InputError

_log = logging.getLogger(__name__)

_MOST = np.finfo(np.float32).max


def replace_not_finite(array: npt.NDArray, source: str | Path) -> npt.NDArray:
    """NaN and infinite voxels get the least finite value, and are counted in a warning. So do those
    that single precision, in which all is calculated, does not hold.

    The array is changed in place where there are such voxels. Raises InputError naming `source`
    where there is nothing else.
    """
    if array.dtype.kind != "f":
        return array
    count, least = 0, np.inf
    for plane in array:  # at once it takes a byte more a voxel
        finite = _is_usable(plane)
        count += int(plane.size - np.count_nonzero(finite))
        if finite.any():
            least = min(least, float(plane[finite].min()))
    if count == 0:
        return array
    if not np.isfinite(least):
        raise InputError(
            f"'{source}' has nothing but voxels that are NaN or infinite in single precision.",
            "Export it again.",
        )
    if not array.flags.writeable:
        array = array.copy()
    for plane in array:
        plane[~_is_usable(plane)] = least
    _log.warning(
        "'%s' has %s NaN or infinite in single precision; %s read as background (%.4g).",
        source,
        *(("1 voxel that is", "it is") if count == 1 else (f"{count} voxels that are", "they are")),
        least,
    )
    return array


def _is_usable(plane: npt.NDArray) -> npt.NDArray[np.bool_]:
    return np.isfinite(plane) if plane.itemsize <= 4 else np.abs(plane) <= _MOST
