"""From the values of a labelmap file to labels from 1 to 255, with a word where they are odd."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.label_table import MOST_STRUCTURES, LabelTable

_log = logging.getLogger(__name__)

# Real numbers that a scaling in the header left beside whole ones. An interpolated labelmap or a
# probability map is further off.
_OFF = 0.01

# Neighbouring labelled voxels of a segmentation mostly have one value; those of an image seldom.
_MANY_VALUES = 10
_ALIKE = 0.5


def labels_of_values(
    path: str | Path, values: npt.NDArray, table: LabelTable | None
) -> tuple[npt.NDArray[np.uint8], LabelTable]:
    """Labels (K, J, I) uint8, and what they mean: `table`, or one made of the values found.

    Values a hundredth off whole numbers are rounded, NaN is background; both with a warning. Values
    that the table does not name become the label of that value if it is free, else 255, for the
    check that follows to find. Raises InputError naming the file: values that are no labels.
    """
    values = _whole_numbers(path, values)
    least = int(values.min(initial=0))
    if least < 0:
        raise InputError(
            f"The segmentation '{path}' has values from {least} to {values.max()}.",
            "Label values must be 0 (background) or more.",
        )
    found = [value for value in _distinct(values).tolist() if value]
    if len(found) > MOST_STRUCTURES or _looks_like_an_image(values, len(found)):
        raise InputError(
            f"The segmentation '{path}' looks like an image: it has {len(found)} distinct values.",
            "Give the segmentation of the image, with one value a structure.",
        )
    table = LabelTable.for_values(found) if table is None else table.narrowed(found)
    label_of = table.label_of()
    unknown = [value for value in found if value not in label_of]
    if unknown:
        raise InputError(
            f"The segmentation '{path}' has values that '{table.name}' does not name: "
            f"{', '.join(map(str, unknown[:10]))}{' and more' if len(unknown) > 10 else ''}.",
            "Add them to the label table, or remove them from the segmentation.",
        )
    if all(value == label for value, label in label_of.items()):
        return values.astype(np.uint8), table
    stored = np.array([0, *found])
    labels = np.array([0, *(label_of[value] for value in found)], np.uint8)
    result = np.empty(values.shape, np.uint8)
    for plane, own in zip(values, result, strict=True):  # at once it takes 8 bytes a voxel
        own[:] = labels[np.searchsorted(stored, plane)]
    return result, table


def _whole_numbers(path: str | Path, values: npt.NDArray) -> npt.NDArray:
    if values.dtype.kind != "f":
        return values
    nan, off = 0, 0.0
    result = np.empty(values.shape, np.int32)
    for plane, own in zip(values, result, strict=True):
        missing = np.isnan(plane)
        nan += int(np.count_nonzero(missing))
        plane = np.where(missing, 0, plane)
        if np.abs(plane).max(initial=0) >= 2**31:  # also infinite
            off = np.inf
            break
        own[:] = np.rint(plane)
        off = max(off, float(np.abs(plane - own).max(initial=0)))
    if off > _OFF:
        raise InputError(
            f"The segmentation '{path}' has values that are not whole numbers.",
            "Give a labelmap, not an image, a probability map or an interpolated labelmap.",
        )
    if off:
        _log.warning(
            "The segmentation '%s' has values up to %.2g beside whole numbers; they are rounded.",
            path,
            off,
        )
    if nan:
        _log.warning(
            "The segmentation '%s' has %d voxels that are NaN; they are background.", path, nan
        )
    return result


def _distinct(values: npt.NDArray) -> npt.NDArray:
    planes = [np.unique(plane) for plane in values]
    return np.unique(np.concatenate(planes)) if planes else np.empty(0, values.dtype)


def _looks_like_an_image(values: npt.NDArray, distinct: int) -> bool:
    if distinct < _MANY_VALUES:
        return False
    pairs, alike = 0, 0
    for plane in values:
        one, other = plane[:, :-1], plane[:, 1:]
        labelled = (one != 0) & (other != 0)
        pairs += int(np.count_nonzero(labelled))
        alike += int(np.count_nonzero(labelled & (one == other)))
    return pairs > 0 and alike < _ALIKE * pairs
