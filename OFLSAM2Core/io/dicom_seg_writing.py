"""A segmentation as DICOM SEG, by highdicom: for the archive that the image came from.

It refers to the image's slices by their UIDs and belongs to the image's patient and study, as DICOM
has it: names and dates of the patient are in it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core import __version__
from OFLSAM2Core.data.image_identity import image_identity
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError, ResourceError
from OFLSAM2Core.io.dicom_color import cielab_of_rgb
from OFLSAM2Core.io.made_of import in_one_line
from OFLSAM2Core.io.writing import check_writable
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2Core.runtime.counted import counted

DICOM_EXTENSIONS = (".dcm",)

_TISSUE = ("85756007", "SCT", "Tissue")


def check_dicom_seg(volume: Volume) -> None:
    """Before the work starts: the volume came from a DICOM series, and highdicom is installed.

    Raises InputError or ResourceError.
    """
    _highdicom()
    from OFLSAM2Core.io.dicom_folder import has_dicom, split_series
    from OFLSAM2Core.io.image_files import kind_of

    source = None if volume.source is None else split_series(volume.source)[0]
    known = source is not None and (
        has_dicom(source) if source.is_dir() else kind_of(source) in ("dicom", "zip")
    )
    if not known or volume.is_sequence:
        raise InputError(
            f"A DICOM SEG refers to the slices of a DICOM image, and '{volume.name}' is none.",
            "Leave --dicom-seg out, or give the image as DICOM.",
        )


def write_dicom_seg(
    path: str | Path, labels: npt.NDArray, volume: Volume, structures: tuple[Structure, ...]
) -> None:
    """Write labels (uint8, on the grid of `volume`, read from DICOM) as a binary DICOM SEG.

    Empty frames are left out. Raises InputError where the image's slices are no longer there or
    lack what DICOM SEG needs, ResourceError where writing fails.
    """
    from OFLSAM2Core.io.dicom_folder import split_series
    from OFLSAM2Core.io.image_files import kind_of
    from OFLSAM2Core.io.zipped import unpacked

    check_writable(path, extensions=DICOM_EXTENSIONS)
    check_dicom_seg(volume)
    assert volume.source is not None
    source, series = split_series(volume.source)
    if source.is_file() and kind_of(source) == "zip":
        with unpacked(source) as inside:
            data = _segmentation(inside, series, labels, volume, structures)
    else:
        data = _segmentation(source, series, labels, volume, structures)
    with atomic_write(path) as temporary:
        data.save_as(temporary)


def _segmentation(
    source: Path,
    series: str | None,
    labels: npt.NDArray,
    volume: Volume,
    structures: tuple[Structure, ...],
) -> Any:
    hd = _highdicom()
    from OFLSAM2Core.io.dicom_series import ordered_frames

    frames = ordered_frames(source, series)
    if len(frames) != len(labels):
        raise InputError(
            f"The image '{source}' has {counted(len(frames), 'slice')} now, and had "
            f"{len(labels)} when it was "
            "read.",
            "Leave the image's files as they are until the command has ended.",
        )
    number_of = np.zeros(256, np.uint8)
    for number, structure in enumerate(structures, start=1):
        number_of[structure.label] = number
    pixels = number_of[labels]
    if frames[0].file.frames > 1:
        images = [frames[0].file.header]
        order = np.argsort([frame.number for frame in frames])
        pixels = pixels[order]
    else:
        images = [frame.file.header for frame in frames]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = hd.seg.Segmentation(
                source_images=images,
                pixel_array=pixels,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[
                    _description(hd, number, structure)
                    for number, structure in enumerate(structures, start=1)
                ],
                series_instance_uid=hd.UID(),
                series_number=900,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="OFL-SAM2 for 3D Slicer",
                manufacturer_model_name="oflsam2",
                software_versions=__version__,
                device_serial_number="0",
                content_description=in_one_line(image_identity(volume)),
                series_description="OFL-SAM2 segmentation",
                omit_empty_frames=bool(pixels.any()),
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"No DICOM SEG can be made for '{volume.name}': its slices lack what it needs "
            f"({error}).",
            "Leave --dicom-seg out, or export the image again with all its tags.",
        ) from error
    for item, structure in zip(data.SegmentSequence, structures, strict=True):
        item.RecommendedDisplayCIELabValue = cielab_of_rgb(structure.color)
    return data


def _description(hd: Any, number: int, structure: Structure) -> Any:
    parts = [part.split("^") for part in structure.terminology.split("~")]
    category, of_type, modifier = (_code(parts, at) for at in (1, 2, 3))
    region, side = (_code(parts, at) for at in (5, 6))
    if category is None or of_type is None:
        category = of_type = _TISSUE
    concept = hd.sr.CodedConcept
    identification = hd.AlgorithmIdentificationSequence(
        name="OFL-SAM2",
        family=concept("113076", "DCM", "Segmentation"),
        version=__version__,
        source="https://arxiv.org/abs/2512.24861",
    )
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name[:64],
        segmented_property_category=concept(*category),
        segmented_property_type=concept(*of_type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=identification,
        anatomic_regions=None if region is None else [concept(*region)],
    )
    if modifier is not None:
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            concept(*modifier)
        ]
    if region is not None and side is not None:
        described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [concept(*side)]
    return described


def _code(parts: list[list[str]], at: int) -> tuple[str, str, str] | None:
    """Value, scheme, meaning, of the part of a terminology entry; None where it is empty."""
    if at >= len(parts) or len(parts[at]) < 3 or not parts[at][1]:
        return None
    scheme, value, meaning = parts[at][:3]
    return value, scheme, meaning or value


def _highdicom() -> Any:
    try:
        import highdicom
        import highdicom.seg
        import highdicom.sr
    except ImportError as error:
        raise ResourceError(
            "DICOM SEG is written by the package highdicom, which is not installed.",
            "Install it: pip install highdicom.",
        ) from error
    return highdicom
