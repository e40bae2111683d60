"""Segmentations: labelmaps, Slicer's `.seg.nrrd`, folders of masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.validation import check_labels
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.frames import read_masks
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.seg_nrrd import SEGMENTATION_EXTENSIONS, read_seg_nrrd
from OFLSAM2Core.io.sitk_io import affine_of, read_image, scalar_array


def read_segmentation(
    path: str | Path, *, table: LabelTable | None = None, may_be_empty: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], tuple[Structure, ...]]:
    """Labels (K, J, I) uint8 on the file's own grid, that grid's affine (RAS), the structures.

    A `.seg.nrrd` brings its own structures. For a labelmap or a folder of PNG masks they come
    from `table` (all of them, also where a value does not occur); without a table every value
    found is a "Structure N". Where segments of a `.seg.nrrd` overlap, a voxel goes to the later
    one and a warning is logged: a voxel has one label here.

    may_be_empty: accept labels in which every voxel is background.

    Raises InputError naming the file: missing, damaged, empty, values that are not whole
    numbers from 0 to 255 or not in the table.
    """
    path = Path(path)
    if path.name.lower().endswith(SEGMENTATION_EXTENSIONS):
        labels, affine, structures = read_seg_nrrd(path)
        check_labels(labels, structures, path, may_be_empty=may_be_empty)
        return labels, affine, structures
    if path.is_dir():
        labels, affine = read_masks(path), np.eye(4)
    else:
        image = read_image(path)
        labels, affine = _whole_numbers(path, scalar_array(image, path)), affine_of(image)
    if table is None:
        table = LabelTable.for_values(np.unique(labels[labels > 0]))
    check_labels(labels, table.structures, path, f"'{table.name}'", may_be_empty=may_be_empty)
    return labels, affine, table.structures


def _whole_numbers(path: Path, values: npt.NDArray) -> npt.NDArray[np.uint8]:
    least, most = values.min(), values.max()
    if values.dtype.kind == "f" and not (
        np.isfinite([least, most]).all() and np.array_equal(values, np.rint(values))
    ):
        raise InputError(
            f"The segmentation '{path}' has values that are not whole numbers.",
            "Give a labelmap, not an image, a probability map or an interpolated labelmap.",
        )
    if least < 0 or most > 255:
        raise InputError(
            f"The segmentation '{path}' has values from {least:g} to {most:g}.",
            "Label values must be from 0 (background) to 255.",
        )
    return values.astype(np.uint8)
