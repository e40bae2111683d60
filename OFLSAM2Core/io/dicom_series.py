"""A DICOM series in a folder, read as one volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.sitk_io import unreadable

# Positions are written with few digits, and scanners round them: a tenth of a step is noise,
# a missing slice is a whole step.
_UNEVEN = 0.1

# What rounded positions may make of a direction.
_TILTED = 1e-3


def split_series(path: str | Path) -> tuple[Path, str | None]:
    """Take "FOLDER#SERIES_UID" apart; the series is None where none is named."""
    text = str(path)
    if "#" in text and not Path(text).exists():
        folder, _, series = text.rpartition("#")
        return Path(folder), series
    return Path(text), None


def looks_like_dicom(folder: Path) -> bool:
    return bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def read_dicom_series(folder: Path, series: str | None = None) -> sitk.Image:
    """The series of that UID, or the only one in the folder.

    Raises InputError: no such series, several to choose from, slices missing or unevenly spaced,
    damaged files.
    """
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if series is not None and series not in found:
        raise InputError(
            f"The folder '{folder}' has no DICOM series '{series}'.", _choices(folder, found)
        )
    if series is None and len(found) > 1:
        raise InputError(
            f"The folder '{folder}' has {len(found)} DICOM series.", _choices(folder, found)
        )
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series or found[0])
    try:
        positions = _positions(files)
        _check_positions(folder, files, positions)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(files)
        return _as_tilted(reader.Execute(), positions)
    except RuntimeError as error:
        raise unreadable(folder, error) from error


def _choices(folder: Path, found: tuple[str, ...]) -> str:
    lines = [f"Choose one by '{folder}#SERIES_UID':"]
    for series in found:
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)
        header = _header(files[0])
        described = " ".join(header(tag) for tag in ("0008|0060", "0008|103e")).strip()
        lines.append(f"  {series}  {len(files)} files  {described}".rstrip())
    return "\n".join(lines)


def _positions(files: tuple[str, ...]) -> npt.NDArray[np.float64] | None:
    """Of the slices' first voxels, mm (LPS): (slices, 3). None where a file does not say."""
    texts = [_header(file)("0020|0032") for file in files]
    if not all(texts):
        return None
    return np.array([[float(number) for number in text.split("\\")] for text in texts])


def _as_tilted(image: sitk.Image, positions: npt.NDArray[np.float64] | None) -> sitk.Image:
    """With the direction in which the slices follow each other: the reader makes it the slices'
    normal, and where the gantry was tilted all slices but the first would be elsewhere."""
    if positions is None or len(positions) < 2:
        return image
    way = positions[-1] - positions[0]
    direction = np.array(image.GetDirection()).reshape(3, 3)
    along = way / np.linalg.norm(way)
    if np.abs(direction[:, 2] - along).max() > _TILTED:
        direction[:, 2] = along
        image.SetDirection(direction.ravel().tolist())
    return image


def _check_positions(
    folder: Path, files: tuple[str, ...], positions: npt.NDArray[np.float64] | None
) -> None:
    """Slices must be evenly spaced: the reader would close a gap without a word."""
    if positions is None or len(files) < 3:
        return
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step = float(np.median(steps))
    if step == 0 or np.abs(steps - step).max() > _UNEVEN * step:
        worst = int(np.abs(steps - step).argmax())
        raise InputError(
            f"The slices of the DICOM series in '{folder}' are not evenly spaced: "
            f"{steps[worst]:.3g} mm between '{Path(files[worst]).name}' and "
            f"'{Path(files[worst + 1]).name}', {step:.3g} mm elsewhere.",
            "Complete the series, or split one that holds several time points.",
        )


def _header(file: str) -> Callable[[str], str]:
    """The value of a tag ("0020|0032") in a file's header, "" where it has none."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()

    def value(tag: str) -> str:
        return reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else ""

    return value
