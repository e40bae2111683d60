"""Read and write volumes and segmentations.

Kinds of volume: NIfTI, NRRD, MetaImage (MHA, MHD), a folder with a DICOM series
(`FOLDER#SERIES_UID` where it holds several), a folder of RGB frames (a sequence).
Kinds of segmentation: a labelmap in any of the image formats, `.seg.nrrd`, a folder of masks.
"""

from __future__ import annotations

from pathlib import Path

from OFLSAM2Core.data.validation import check_volume
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.align_labels import align_labels_to_volume
from OFLSAM2Core.io.dicom_series import looks_like_dicom, read_dicom_series, split_series
from OFLSAM2Core.io.frames import frame_files, read_frames
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.seg_nrrd import write_segmentation
from OFLSAM2Core.io.segmentation_io import read_segmentation
from OFLSAM2Core.io.sitk_io import IMAGE_EXTENSIONS, affine_of, read_image, scalar_array
from OFLSAM2Core.io.writing import check_writable, write_confidence, write_labelmap

__all__ = [
    "check_writable",
    "read_segmentation",
    "read_support_case",
    "read_volume",
    "write_confidence",
    "write_labelmap",
    "write_segmentation",
]


def read_volume(path: str | Path) -> Volume:
    """A volume, or a sequence where `path` is a folder of JPEG or PNG frames.

    The voxels keep their stored type. Raises InputError naming the file: missing, damaged,
    4D or colour, not finite voxels, geometry that cannot be inverted.
    """
    folder, series = split_series(path)
    if folder.is_dir():
        is_dicom = series is not None or looks_like_dicom(folder)
        # A DICOM folder may hold a preview picture besides.
        if not is_dicom and frame_files(folder):
            return read_frames(folder)
        if not is_dicom:
            raise InputError(
                f"The folder '{folder}' has neither DICOM files nor JPEG or PNG frames.",
                "Give a folder with one of these, or an image file.",
            )
        image = read_dicom_series(folder, series)
    else:
        image = read_image(folder)
    volume = Volume(scalar_array(image, path), affine_of(image), case_name(folder), Path(path))
    check_volume(volume)
    return volume


def read_support_case(
    image_path: str | Path,
    labels_path: str | Path,
    *,
    table: LabelTable | None = None,
    may_be_empty: bool = False,
) -> SupportCase:
    """A volume and its segmentation, put exactly onto the volume's grid.

    The segmentation may cover only a part of the volume's grid (Slicer crops what it saves) or
    store its axes in another order. Any other difference is an InputError naming both files.
    may_be_empty: accept labels without a structure, to compare with.
    """
    volume = read_volume(image_path)
    labels, affine, structures = read_segmentation(
        labels_path, table=table, may_be_empty=may_be_empty
    )
    return SupportCase(
        volume, align_labels_to_volume(labels, affine, volume, labels_path), structures
    )


def case_name(path: Path) -> str:
    """The file's name without its extension ("patient1.nii.gz" is "patient1")."""
    for extension in sorted(IMAGE_EXTENSIONS, key=len, reverse=True):
        if path.name.lower().endswith(extension):
            return path.name[: -len(extension)]
    return path.name
