"""A DICOM series as one volume: every slice where its own header says, or an error naming it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_file import DicomFile, read_dicom_file, text_of
from OFLSAM2Core.io.dicom_folder import (
    choose_series,
    dicom_files,
    images_by_series,
)
from OFLSAM2Core.io.dicom_pixels import stored_pixels
from OFLSAM2Core.io.dicom_table import Frame, frames_of
from OFLSAM2Core.io.dicom_values import frame_values, odd_one
from OFLSAM2Core.io.image_header import LPS_TO_RAS
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.memory_check import require_memory

_log = logging.getLogger(__name__)

# A slice may lie beside its place in the even grid by a tenth of a step; where steps are small, by
# what rounding to a tenth of a millimetre does.
_UNEVEN = 0.1
_ROUNDED = 0.12

_TURNED = 2e-3
_RESIZED = 1e-3


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """What a series holds.

    array: (K, J, I) in the units of the header (Hounsfield for CT); (T, H, W, 3) uint8 for colour
        frames without positions.
    affine: to RAS, mm.
    frame_of_reference: UID of the coordinates, "" where the header names none.
    """

    array: npt.NDArray
    affine: npt.NDArray[np.float64]
    frame_of_reference: str = ""


def read_dicom(path: Path, series: str | None = None) -> DicomVolume:
    """The series in a folder (or below it), the one of that UID, or the one that a file is of.

    Raises InputError naming the file: cut, without position, of another size, orientation, spacing
    or colour than the others, at the place of another, off the even grid. Also where there are no
    pictures, or several series to choose from.
    """
    return _assembled(path, _files_of(path, series))


def ordered_frames(path: Path, series: str | None = None) -> list[Frame]:
    """The slices that `read_dicom` reads, in the order in which it stacks them.

    Raises InputError as that does, and where slices have no place.
    """
    frames = [frame for file in _without_copies(_files_of(path, series))
              for frame in frames_of(file)]  # fmt: skip
    if any(frame.position is None for frame in frames):
        raise InputError(
            f"The images of '{path}' do not say where they lie.", "Give a series with positions."
        )
    return _in_order(path, frames)[0]


def _files_of(path: Path, series: str | None) -> list[DicomFile]:
    if path.is_file():
        file = read_dicom_file(path)
        if not file.is_directory:
            return _series_of(path, file)
        path = path.parent
    files = dicom_files(path)
    pictures = images_by_series(files)
    if not pictures:
        if any(file.is_segmentation for file in files):
            what = "a DICOM segmentation (SEG)"
        elif any(file.is_structure_set for file in files):
            what = "contours (RTSTRUCT)"
        else:
            what = "DICOM files without pictures"
        raise InputError(
            f"The folder '{path}' holds {what}, not an image.",
            "Give the folder of the image; segmentations and contours are given as labels.",
        )
    return choose_series(path, pictures, series)


def _series_of(path: Path, file: DicomFile) -> list[DicomFile]:
    """The series that a file is a slice of; a file of several frames is one by itself."""
    if file.is_segmentation or file.is_structure_set:
        what = "a DICOM segmentation (SEG)" if file.is_segmentation else "contours (RTSTRUCT)"
        raise InputError(f"'{path}' is {what}, not an image.", "Give it as labels of its image.")
    if not file.is_image:
        raise InputError(f"'{path}' is a DICOM file without a picture.", "Give the image's folder.")
    if file.frames > 1:
        return [file]
    same = images_by_series(dicom_files(path.parent)).get(file.series, [file])
    if len(same) > 1:
        _log.warning("'%s' is one of %d files of its series; all are read.", path.name, len(same))
    return same


def check_series(path: Path, series: str | None = None) -> None:
    """What `read_dicom` would refuse, as far as the headers of its slices show.

    Raises InputError as that does.
    """
    frames = _checked_frames(path, _files_of(path, series))
    if any(frame.position is not None for frame in frames):
        _in_order(path, frames)


def _checked_frames(source: Path, files: list[DicomFile]) -> list[Frame]:
    frames = [frame for file in _without_copies(files) for frame in frames_of(file)]
    _refuse_mosaics(source, frames)
    _check_alike(source, frames)
    return frames


def _assembled(source: Path, files: list[DicomFile]) -> DicomVolume:
    frames = _checked_frames(source, files)
    rows, columns = frames[0].size
    # Each picture is decoded and scaled in floating point; then the volume is filled.
    require_memory(
        6 * len(frames) * rows * columns,
        f"Reading '{source}'",
        "Close other programs, or give a part of the series.",
    )
    if all(frame.position is None for frame in frames):
        return _unplaced(source, frames)
    frames, affine = _in_order(source, frames)
    reference = text_of(frames[0].file.header, "FrameOfReferenceUID")
    return DicomVolume(frame_values(source, frames), affine, reference)


def _without_copies(files: list[DicomFile]) -> list[DicomFile]:
    """Each picture once: the same instance may lie in a folder twice.

    Raises InputError where two files claim to be the same picture and are not.
    """
    kept: dict[str, DicomFile] = {}
    copies = 0
    for number, file in enumerate(files):
        known = kept.setdefault(file.sop_instance or f"file {number}", file)
        if known is file:
            continue
        if not _same_picture(known, file):
            raise InputError(
                f"'{known.path}' and '{file.path.name}' claim to be the same DICOM image and "
                "differ.",
                "Take the wrong one out of the folder.",
            )
        copies += 1
    if copies:
        _log.warning("%d DICOM files are copies of others; each image is read once.", copies)
    return list(kept.values())


def _same_picture(one: DicomFile, other: DicomFile) -> bool:
    if one.path.samefile(other.path):
        return True
    return _pixel_bytes(one) == _pixel_bytes(other) and all(
        text_of(one.header, tag) == text_of(other.header, tag)
        for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                    "RescaleSlope", "RescaleIntercept")
    )  # fmt: skip


def _pixel_bytes(file: DicomFile) -> bytes:
    with open(file.path, "rb") as stream:
        stream.seek(file.pixel_start or 0)
        return stream.read(-1 if file.pixel_bytes is None else file.pixel_bytes)


def _refuse_mosaics(source: Path, frames: list[Frame]) -> None:
    """Siemens packs all slices of a volume side by side into one picture."""
    for frame in frames:
        if "MOSAIC" in text_of(frame.file.header, "ImageType").upper():
            raise InputError(
                f"{frame.name} in the DICOM series in '{source}' is a mosaic of slices.",
                "Convert it (by dcm2niix, say) or export its slices one by one.",
            )


def _check_alike(source: Path, frames: list[Frame]) -> None:
    """Size, colour, modality, orientation and spacing are those of most, and all have a position,
    or none has."""
    _as_most(source, frames, "{} pixels", [" x ".join(map(str, f.size[::-1])) for f in frames])
    _as_most(source, frames, "colours {}", [f"{f.samples} {f.photometric}" for f in frames])
    for tag, what in (("PatientID", "patient"), ("FrameOfReferenceUID", "frame of reference")):
        _refuse_another(source, frames, tag, what)
    modalities = [text_of(frame.file.header, "Modality") for frame in frames]
    _as_most(source, frames, "the modality {}", modalities)
    placed = [frame for frame in frames if frame.position is not None]
    if placed and len(placed) < len(frames):
        odd = next(frame for frame in frames if frame.position is None)
        raise odd_one(source, odd, "does not say where it lies (ImagePositionPatient)")
    _near(source, placed, [frame.orientation for frame in placed], _TURNED, "orientation")
    spacings = [frame.spacing for frame in placed]
    scale = min((s.min() for s in spacings if s is not None), default=1.0)
    _near(source, placed, spacings, _RESIZED * scale, "pixel spacing")


def _refuse_another(source: Path, frames: list[Frame], tag: str, what: str) -> None:
    """Series of two patients may have one UID after anonymization. A missing value is not another
    one, and the values themselves are not for messages."""
    values = [text_of(frame.file.header, tag) for frame in frames]
    known = [value for value in values if value]
    usual = max(set(known), key=known.count, default="")
    for frame, value in zip(frames, values, strict=True):
        if value and value != usual:
            raise odd_one(source, frame, f"is of another {what} than the others ({tag})")


def _as_most(source: Path, frames: list[Frame], template: str, values: list[str]) -> None:
    usual = max(set(values), key=values.count)
    for frame, value in zip(frames, values, strict=True):
        if value != usual:
            raise odd_one(source, frame, f"has {template.format(value)}, the others {usual}")


def _near(
    source: Path,
    frames: list[Frame],
    values: list[npt.NDArray[np.float64] | None],
    tolerance: float,
    what: str,
) -> None:
    """All values are there and near their median."""
    for frame, value in zip(frames, values, strict=True):
        if value is None:
            raise odd_one(source, frame, f"does not say its {what}")
    if not frames:
        return
    stacked = np.array(values, float)
    off = np.abs(stacked - np.median(stacked, axis=0)).reshape(len(frames), -1).max(axis=1)
    if off.max() > tolerance:
        frame = frames[int(off.argmax())]
        raise odd_one(source, frame, f"has another {what} than the others")


def _in_order(source: Path, frames: list[Frame]) -> tuple[list[Frame], npt.NDArray[np.float64]]:
    """Slices along their normal, and their grid (RAS). Raises InputError where it is not even."""
    turn = frames[0].orientation
    spacing = frames[0].spacing
    assert turn is not None and spacing is not None
    normal = np.cross(*turn)
    places = np.array([frame.position for frame in frames], float)
    order = np.argsort(places @ normal, kind="stable")
    frames, places = [frames[number] for number in order], places[order]
    if len(frames) > 1:
        step = (places[-1] - places[0]) / (len(frames) - 1)
        _check_even(source, frames, places, step)
    else:
        step = normal * _thickness(frames[0])
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = turn[0] * spacing[1], turn[1] * spacing[0], step
    lps[:3, 3] = places[0]
    return frames, LPS_TO_RAS @ lps


def _thickness(frame: Frame) -> float:
    for length in (frame.between, frame.thickness):
        if length is not None and length > 0:
            return length
    _log.warning("%s does not say how thick its slice is; 1 mm is taken.", frame.name)
    return 1.0


def _check_even(
    source: Path,
    frames: list[Frame],
    places: npt.NDArray[np.float64],
    step: npt.NDArray[np.float64],
) -> None:
    """Every slice lies where the even grid from the first to the last one has it."""
    length = float(np.linalg.norm(step))
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    twice = np.flatnonzero(steps < max(0.01 * float(np.median(steps)), 1e-4))
    if len(twice):
        one, other = frames[twice[0]], frames[twice[0] + 1]
        raise InputError(
            f"The DICOM series in '{source}' holds {counted(len(twice), 'slice')} at the place "
            f"of another, as "
            f"{one.name} and {other.name}: several time points, echoes or reconstructions.",
            "Give a folder with the slices of one of them.",
        )
    off = np.linalg.norm(places - (places[0] + np.arange(len(places))[:, None] * step), axis=1)
    if off.max() > max(_UNEVEN * length, min(_ROUNDED, 2.5 * _UNEVEN * length)):
        usual = float(np.median(steps))
        worst = int(np.abs(steps - usual).argmax())
        raise InputError(
            f"The slices of the DICOM series in '{source}' are not evenly spaced: "
            f"{steps[worst]:.3g} mm between {frames[worst].name} and {frames[worst + 1].name}, "
            f"{usual:.3g} mm elsewhere; {frames[int(off.argmax())].name} is {off.max():.3g} mm "
            "from its place in an even grid.",
            "Complete the series, or split one that holds several parts.",
        )


def _unplaced(source: Path, frames: list[Frame]) -> DicomVolume:
    """Pictures without a place: one is a slice, several in colour are a sequence."""
    if frames[0].samples == 3 and len({frame.file.path for frame in frames}) == 1:
        array = stored_pixels(frames[0].file)
        if array.dtype == np.uint8 and len(array) > 1:
            return DicomVolume(array, np.eye(4))
    if len(frames) > 1:
        raise InputError(
            f"The {len(frames)} images of the DICOM series in '{source}' do not say where they "
            "lie (no ImagePositionPatient).",
            "Export the series with positions, or its frames as pictures.",
        )
    frame = frames[0]
    spacing = frame.spacing if frame.spacing is not None else np.ones(2)
    also = "" if frame.spacing is not None else " nor the spacing of its pixels (1 mm is taken)"
    _log.warning("%s does not say where its picture lies%s.", frame.name, also)
    affine = np.diag([spacing[1], spacing[0], _thickness(frame), 1.0])
    return DicomVolume(frame_values(source, frames), LPS_TO_RAS @ affine)
