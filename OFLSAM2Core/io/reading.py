"""Read and write volumes and segmentations.

Kinds of volume: NIfTI (also NIfTI-2 and pairs), NRRD, MetaImage, FreeSurfer's MGH, DICOM (a folder
with a series or with folders of it, one file of it, several frames in a file; `FOLDER#SERIES_UID`
where there are several), a picture, a folder of RGB frames (a sequence), a zip archive of these.
Kinds of segmentation: a labelmap in any of the image formats, `.seg.nrrd`, DICOM SEG, RTSTRUCT, a
folder of masks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from OFLSAM2Core.data.image_identity import image_identity
from OFLSAM2Core.data.support_checks import refuse_image_as_labels
from OFLSAM2Core.data.validation import check_volume
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.align_labels import align_labels_to_volume
from OFLSAM2Core.io.finite_voxels import replace_not_finite
from OFLSAM2Core.io.frames import PICTURE_EXTENSIONS, frame_files, read_frames, read_picture
from OFLSAM2Core.io.image_files import IMAGE_EXTENSIONS, kind_of, read_image
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.made_of import images_made_of
from OFLSAM2Core.io.mask_folder import mask_files
from OFLSAM2Core.io.seg_nrrd import write_segmentation
from OFLSAM2Core.io.segmentation_io import read_segmentation
from OFLSAM2Core.io.unforeseen import in_words
from OFLSAM2Core.io.writing import check_writable, write_confidence, write_labelmap
from OFLSAM2Core.io.zipped import unpacked

__all__ = [
    "check_writable",
    "read_segmentation",
    "read_support_case",
    "read_volume",
    "write_confidence",
    "write_labelmap",
    "write_segmentation",
]

_log = logging.getLogger(__name__)


@in_words
def read_volume(
    path: str | Path,
    *,
    channel: int | Sequence[int] | None = None,
    further: Sequence[str | Path] = (),
) -> Volume:
    """A volume, or a sequence where `path` is a folder of JPEG or PNG frames.

    The voxels keep their stored type, unless the header scales them. What a header does not say,
    or says in two ways, is chosen by one rule, with a warning. NaN and infinite voxels become
    background, colours grey. channel: of a file with several volumes (4D), which one, from 0; or
    several that are co-registered. further: files of co-registered volumes. The first of all is the
    volume, the others become its `further`.
    Raises InputError naming the file: missing, damaged, several volumes, geometry that is none.
    """
    path = Path(path)
    channels = [channel] if channel is None or isinstance(channel, int) else channel
    first = _read_one(path, channels[0])
    others = []
    for number in channels[1:]:
        other = _read_one(path, number)
        others.append(replace(other, name=f"{other.name}, channel {number}"))
    _refuse_one_twice([path, *map(Path, further)])
    others += [_read_one(Path(each), None) for each in further]
    if not others:
        return first
    volume = replace(first, further=tuple(others))
    check_volume(volume)
    return volume


def _read_one(path: Path, channel: int | None) -> Volume:
    file, series = _split(path)
    if os.path.isdir(file):  # False also for names that no file can have
        volume = _read_folder(file, series, channel)
    else:
        kind = kind_of(file)
        if kind == "zip":
            with unpacked(file) as inside:
                return replace(
                    _read_one(inside if series is None else Path(f"{inside}#{series}"), channel),
                    name=case_name(file),
                    source=path,
                )
        if kind == "dicom":
            volume = _read_dicom(file, None)
        elif kind == "picture":
            volume = read_picture(file)
        else:
            array, header = read_image(file, kind, channel)
            volume = Volume(array, header.affine, nifti_forms=header.forms)
    array = replace_not_finite(volume.array, path)
    volume = replace(volume, array=array, name=case_name(file), source=path)
    check_volume(volume)
    return volume


@in_words
def read_support_case(
    image_path: str | Path,
    labels_path: str | Path,
    *,
    table: LabelTable | None = None,
    may_be_empty: bool = False,
    channel: int | Sequence[int] | None = None,
    further: Sequence[str | Path] = (),
) -> SupportCase:
    """A volume and its segmentation, put onto the volume's grid.

    The segmentation may cover only a part of the volume's grid (Slicer crops what it saves) or
    store its axes in another order; on another grid it is resampled in patient space, with a
    warning that says how the grids differ. may_be_empty: accept labels without a structure, to
    compare with. channel, further: as of `read_volume`. Raises InputError naming the files.
    """
    volume = read_volume(image_path, channel=channel, further=further)
    return labelled(volume, labels_path, table=table, may_be_empty=may_be_empty)


def labelled(
    volume: Volume,
    labels_path: str | Path,
    *,
    table: LabelTable | None = None,
    may_be_empty: bool = False,
    same_grid: bool = False,
) -> SupportCase:
    """A volume that was read, with its segmentation as `read_support_case` reads it.

    same_grid: labels on another grid are refused, not resampled. Raises InputError.
    """
    labels, affine, structures = read_segmentation(
        labels_path, table=table, may_be_empty=may_be_empty, volume=volume
    )
    labels = align_labels_to_volume(labels, affine, volume, labels_path, same_grid=same_grid)
    refuse_image_as_labels(volume, labels)
    made_of = images_made_of(labels_path)
    if made_of and made_of != {image_identity(volume)}:
        _log.warning(
            "The segmentation '%s' was made of another image than '%s'. Make sure that it is of "
            "the same patient and place.",
            labels_path,
            volume.source or volume.name,
        )
    return SupportCase(volume, labels, structures)


def _refuse_one_twice(paths: Sequence[Path]) -> None:
    taken = set()
    for path in paths:
        if os.path.realpath(path) in taken:
            raise InputError(
                f"'{path}' is given twice as a volume of one case.",
                "Give each co-registered volume once.",
            )
        taken.add(os.path.realpath(path))


def _split(path: Path) -> tuple[Path, str | None]:
    from OFLSAM2Core.io.dicom_folder import split_series

    return split_series(path)


def is_sequence(path: Path) -> bool:
    """Whether a path is a folder of colour frames; nothing but its list of files is looked at."""
    from OFLSAM2Core.io.dicom_folder import has_dicom

    return path.is_dir() and not has_dicom(path) and bool(frame_files(path))


def _read_folder(folder: Path, series: str | None, channel: int | None) -> Volume:
    from OFLSAM2Core.io.dicom_folder import has_dicom

    # A DICOM folder may hold a preview picture besides.
    if series is not None or has_dicom(folder):
        return _read_dicom(folder, series)
    if frame_files(folder):
        return read_frames(folder)
    files = mask_files(folder)
    if len(files) == 1:
        array, header = read_image(files[0], channel=channel)
        return Volume(array, header.affine, nifti_forms=header.forms)
    raise InputError(
        f"The folder '{folder}' has neither DICOM files nor JPEG or PNG frames.",
        "Give a folder with one of these, or an image file.",
    )


def _read_dicom(path: Path, series: str | None) -> Volume:
    from OFLSAM2Core.io.dicom_series import read_dicom

    found = read_dicom(path, series)
    return Volume(found.array, found.affine, frame_of_reference=found.frame_of_reference)


def case_name(path: Path) -> str:
    """The file's name without its extension ("patient1.nii.gz" is "patient1")."""
    known = (*IMAGE_EXTENSIONS, *PICTURE_EXTENSIONS, ".zip")
    for extension in sorted(known, key=len, reverse=True):
        if path.name.lower().endswith(extension):
            return path.name[: -len(extension)]
    return path.name
