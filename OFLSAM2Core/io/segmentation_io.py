"""Segmentations: labelmaps, Slicer's `.seg.nrrd`, DICOM SEG and RTSTRUCT, folders of masks."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.validation import check_labels
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.frames import frame_files, read_masks
from OFLSAM2Core.io.image_files import kind_of, read_header, read_image
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.label_values import labels_of_values
from OFLSAM2Core.io.mask_folder import mask_files, read_mask_folder
from OFLSAM2Core.io.seg_nrrd import SEGMENTATION_EXTENSIONS, has_segments, read_seg_nrrd
from OFLSAM2Core.io.unforeseen import in_words
from OFLSAM2Core.io.zipped import unpacked

if TYPE_CHECKING:
    from OFLSAM2Core.io.dicom_file import DicomFile

_log = logging.getLogger(__name__)

Read = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], tuple[Structure, ...]]


@in_words
def read_segmentation(
    path: str | Path,
    *,
    table: LabelTable | None = None,
    may_be_empty: bool = False,
    volume: Volume | None = None,
) -> Read:
    """Labels (K, J, I) uint8 on the file's own grid, that grid's affine (RAS), the structures.

    `.seg.nrrd`, DICOM SEG, RTSTRUCT and folders of one mask a structure bring their own structures.
    For a labelmap or PNG masks they come from `table` (all of them, also where a value does not
    occur); without a table every value found is a "Structure N". A voxel has one label here: where
    segments overlap, a warning says which is taken.

    volume: the image the segmentation is of. Contours (RTSTRUCT) are put onto its grid, and masks
        of frames are matched with its frames by name.
    may_be_empty: accept labels in which every voxel is background.

    Raises InputError naming the file: missing, damaged, empty, values that are no labels or not in
    the table.
    """
    path = Path(path)
    if os.path.isdir(path):
        labels, affine, structures = _read_folder(path, table, volume)
    else:
        labels, affine, structures = _read_file(path, table, volume, may_be_empty)
    check_labels(labels, structures, path, may_be_empty=may_be_empty)
    return labels, affine, structures


def _read_file(
    path: Path, table: LabelTable | None, volume: Volume | None, may_be_empty: bool
) -> Read:
    kind = kind_of(path)
    if kind == "zip":
        with unpacked(path) as inside:
            return read_segmentation(inside, table=table, may_be_empty=may_be_empty, volume=volume)
    if kind == "dicom":
        return _read_dicom(path, volume)
    if kind == "nrrd":
        named = path.name.lower().endswith(SEGMENTATION_EXTENSIONS)
        if named or has_segments(read_header(path, kind).fields):
            return read_seg_nrrd(path)
    if kind == "picture":
        values, affine = read_masks(path), np.eye(4)
        if volume is not None and not volume.is_sequence:
            affine = volume.affine
    else:
        values, header = read_image(path, kind)
        affine = header.affine
    labels, table = labels_of_values(path, values, table)
    return labels, affine, table.structures


def _read_folder(path: Path, table: LabelTable | None, volume: Volume | None) -> Read:
    files = mask_files(path)
    if len(files) == 1:
        return _read_file(files[0], table, volume, may_be_empty=True)
    if files:
        return read_mask_folder(path, files, table)
    if frame_files(path, (".png",)):
        frames = None
        if volume is not None and volume.is_sequence and volume.source is not None:
            frames = frame_files(volume.source) if volume.source.is_dir() else None
        labels, table = labels_of_values(path, read_masks(path, frames), table)
        return labels, np.eye(4), table.structures
    from OFLSAM2Core.io.dicom_folder import has_dicom

    if has_dicom(path):
        return _read_dicom(path, volume)
    raise InputError(
        f"The folder '{path}' has no masks: neither PNG files, image files nor a DICOM "
        "segmentation.",
        "Give one mask for every frame, one for every structure, or a segmentation's file.",
    )


def drawn_in(path: Path) -> DicomFile:
    """The one DICOM segmentation or structure set that a file is, or a folder has.

    Raises InputError naming the path where there is none, or several.
    """
    from OFLSAM2Core.io.dicom_file import read_dicom_file
    from OFLSAM2Core.io.dicom_folder import dicom_files

    files = dicom_files(path) if path.is_dir() else [read_dicom_file(path)]
    drawn = {file.sop_instance: file for file in files if file.is_segmentation}
    drawn |= {file.sop_instance: file for file in files if file.is_structure_set}
    if len(drawn) != 1:
        names = ", ".join(sorted(f"'{file.path.name}'" for file in drawn.values()))
        raise InputError(
            f"'{path}' has {len(drawn)} DICOM segmentations or structure sets"
            f"{': ' + names if names else ', only images'}.",
            "Give the file of one of them." if names else "Give a segmentation of the image.",
        )
    return next(iter(drawn.values()))


def _compare_coordinates(path: Path, file: DicomFile, volume: Volume) -> None:
    """Say where a segmentation names other coordinates than its image: then that both lie at one
    place means nothing."""
    from OFLSAM2Core.io.dicom_file import sequence, text_of

    named = {text_of(file.header, "FrameOfReferenceUID")}
    for item in sequence(file.header, "ReferencedFrameOfReferenceSequence"):
        named.add(text_of(item, "FrameOfReferenceUID"))
    for item in sequence(file.header, "StructureSetROISequence"):
        named.add(text_of(item, "ReferencedFrameOfReferenceUID"))
    named.discard("")
    if volume.frame_of_reference and named and volume.frame_of_reference not in named:
        _log.warning(
            "The segmentation '%s' lies in another frame of reference than the image '%s'. Make "
            "sure that it is of the same patient and scan.",
            path,
            volume.source or volume.name,
        )


def _read_dicom(path: Path, volume: Volume | None) -> Read:
    from OFLSAM2Core.io.dicom_seg import read_dicom_seg
    from OFLSAM2Core.io.rtstruct import read_rtstruct

    file = drawn_in(path)
    if volume is not None:
        _compare_coordinates(path, file, volume)
    if file.is_segmentation:
        return read_dicom_seg(file)
    if volume is None or volume.is_sequence:
        raise InputError(
            f"'{path}' holds contours (RTSTRUCT), which need the image that they were drawn on.",
            "Give it together with that image.",
        )
    labels, structures = read_rtstruct(file, volume)
    return labels, volume.affine, structures
