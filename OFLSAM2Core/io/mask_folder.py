"""A folder of masks, one file a structure, as TotalSegmentator writes them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.align_labels import align_labels_to_volume
from OFLSAM2Core.io.image_files import IMAGE_EXTENSIONS, is_image_file, read_image
from OFLSAM2Core.io.label_table import MOST_STRUCTURES, LabelTable, default_color
from OFLSAM2Core.runtime.counted import counted

_log = logging.getLogger(__name__)


def mask_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name; of a pair the header."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and is_image_file(path)
        and not path.name.startswith(".")
        and not path.name.lower().endswith((".img", ".img.gz"))
    )


def read_mask_folder(
    folder: Path, files: list[Path], table: LabelTable | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], tuple[Structure, ...]]:
    """Labels (K, J, I) on the grid of the first mask, that grid's affine (RAS), the structures.

    A structure has the name of its file, and its label, colour and terminology from `table` where
    that names it. Empty masks are left out. Where masks overlap, the smaller structure is taken,
    with a warning. Raises InputError naming the file: damaged, with several values.
    """
    masks: list[tuple[str, npt.NDArray[np.bool_], int]] = []
    grid: Volume | None = None
    empty = []
    for file in files:
        values, header = read_image(file)
        name = structure_name(file)
        _check_binary(file, values)
        mask = values > 0
        if grid is None:
            grid = Volume(np.empty(mask.shape, np.bool_), header.affine, folder.name, folder)
        if not mask.any():
            empty.append(name)
            continue
        mask = align_labels_to_volume(mask.astype(np.uint8), header.affine, grid, file) > 0
        masks.append((name, mask, int(np.count_nonzero(mask))))
    assert grid is not None
    if empty:
        _log.info("%d masks of the folder are empty and left out", len(empty))
    if len(masks) > MOST_STRUCTURES:
        raise InputError(
            f"The folder '{folder}' has {len(masks)} masks; {MOST_STRUCTURES} are the most.",
            "Take those out that are not needed.",
        )
    labels = np.zeros(grid.grid_shape, np.uint8)
    overlap = 0
    structures = _structures([name for name, _, _ in masks], table)
    for number in sorted(range(len(masks)), key=lambda index: -masks[index][2]):
        mask = masks[number][1]
        overlap += int(np.count_nonzero(labels[mask]))
        labels[mask] = structures[number].label
    if overlap:
        _log.warning(
            "Masks in '%s' overlap in %s; there the smaller structure is taken.",
            folder,
            counted(overlap, "voxel"),
        )
    return labels, grid.affine, tuple(structures)


def structure_name(path: Path) -> str:
    """The file's name without its extension."""
    for extension in sorted((*IMAGE_EXTENSIONS, ".seg.nrrd"), key=len, reverse=True):
        if path.name.lower().endswith(extension):
            return path.name[: -len(extension)]
    return path.stem


def _check_binary(file: Path, values: npt.NDArray) -> None:
    found = np.unique(values[values != 0])
    if len(found) > 1:
        raise InputError(
            f"'{file}' has {len(found)} values; in a folder of masks every file is one structure.",
            "Give a labelmap by its file, or one mask a structure.",
        )
    if len(found) and not found[0] > 0:
        raise InputError(
            f"The mask '{file}' has the value {found[0]:g}.", "A mask is 0 outside, 1 inside."
        )


def _structures(names: list[str], table: LabelTable | None) -> list[Structure]:
    known = {one.name.strip().casefold(): one for one in (table.structures if table else ())}
    structures = [known.get(name.strip().casefold()) for name in names]
    if structures and all(structures):
        return [structure for structure in structures if structure is not None]
    return [
        Structure(name, number, default_color(number)) for number, name in enumerate(names, start=1)
    ]
