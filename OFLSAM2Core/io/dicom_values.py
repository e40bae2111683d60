"""The values of DICOM slices, each scaled by its own header."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_file import sequence, text_of
from OFLSAM2Core.io.dicom_pixels import stored_pixels
from OFLSAM2Core.io.dicom_table import Frame
from OFLSAM2Core.io.image_files import as_grey

_log = logging.getLogger(__name__)


def frame_values(source: Path, frames: list[Frame]) -> npt.NDArray:
    """Real values of the frames (K, J, I): whole numbers where all scalings are whole.

    Raises InputError naming the slice whose scaling is missing where others have one.
    """
    slopes, intercepts = _scalings(source, frames)
    pictures = _pictures(source, frames)
    exact = all(value.is_integer() for value in (*slopes, *intercepts)) and all(
        picture.dtype.kind in "iu" for picture in pictures
    )
    if not exact:
        result = np.empty((len(frames), *pictures[0].shape), np.float32)
    else:
        ends = [
            float(end) * slope + intercept
            for picture, slope, intercept in zip(pictures, slopes, intercepts, strict=True)
            for end in (picture.min(), picture.max())
        ]
        result = np.empty((len(frames), *pictures[0].shape), _integer(min(ends), max(ends)))
    for number, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True)):
        picture, pictures[number] = pictures[number], pictures[number][:0]
        if slope != 1 or intercept != 0:
            picture = picture.astype(np.float64) * slope + intercept
        result[number] = picture
    return result


def _integer(least: float, most: float) -> type[np.signedinteger]:
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return dtype
    return np.int64


def _pictures(source: Path, frames: list[Frame]) -> list[npt.NDArray]:
    """The stored pixels of each frame; files of several frames are read once."""
    whole: dict[Path, npt.NDArray] = {}
    pictures = []
    for frame in frames:
        path = frame.file.path
        if path not in whole:
            pixels = stored_pixels(frame.file)
            whole[path] = as_grey(path, pixels) if pixels.ndim == 4 else pixels
        pictures.append(whole[path][frame.number])
    return pictures


def _scalings(source: Path, frames: list[Frame]) -> tuple[list[float], list[float]]:
    """Each frame's own slope and intercept.

    Raises InputError for one that does not say it where others do, and it matters.
    """
    known = [f for f in frames if f.slope is not None and f.intercept is not None]
    plain = all(frame.slope == 1 and frame.intercept == 0 for frame in known)
    if known and not plain and len(known) < len(frames):
        odd = next(f for f in frames if f.slope is None or f.intercept is None)
        raise odd_one(
            source, odd, "does not say how its values are scaled (RescaleSlope, Intercept)"
        )
    for frame in frames:
        if sequence(frame.file.header, "ModalityLUTSequence"):
            raise odd_one(source, frame, "scales its values by a table (ModalityLUTSequence)")
    if any(text_of(f.file.header, "PhotometricInterpretation") == "MONOCHROME1" for f in frames):
        _log.warning(
            "The DICOM series in '%s' shows high values dark (MONOCHROME1); values are read as "
            "they are stored.",
            source,
        )
    for frame in known:
        if frame.slope == 0:
            raise odd_one(source, frame, "scales its values by 0")
    if not known and text_of(frames[0].file.header, "Modality") == "CT":
        _log.warning(
            "The CT in '%s' does not say how its values are scaled: they may be no Hounsfield "
            "units.",
            source,
        )
    return (
        [1.0 if frame.slope is None else frame.slope for frame in frames],
        [0.0 if frame.intercept is None else frame.intercept for frame in frames],
    )


def odd_one(source: Path, frame: Frame, fault: str) -> InputError:
    """The error for a slice that does not belong to the others."""
    return InputError(
        f"{frame.name} in the DICOM series in '{source}' {fault}.",
        "Take it out of the folder if it is no slice of the volume, or export the series again.",
    )
