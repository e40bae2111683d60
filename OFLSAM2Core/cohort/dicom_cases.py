"""The DICOM series of a folder that are volumes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

_NO_IMAGES = frozenset(
    ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO")
    + ("REG", "FID", "DOC", "AU", "ECG", "PLAN", "RWV", "M3D")
)
"""Modalities of series that hold no volume to segment."""

_MODALITY, _IMAGE_TYPE, _FRAMES, _SERIES_NUMBER = (
    "0008|0060",
    "0008|0008",
    "0028|0008",
    "0020|0011",
)


@dataclass(frozen=True)
class Series:
    """A series: its UID, a short name within its folder ("s3"), and why it is no case, or ""."""

    uid: str
    short_name: str
    left_out: str = ""


def series_of_folder(folder: Path) -> list[Series]:
    """All series of a folder (not of folders in it), by series number; none where it has no DICOM
    files."""
    uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    found = []
    for uid in uids:
        files = series_files(folder, uid)
        header = _header(files[0]) if files else {}
        number = header.get(_SERIES_NUMBER, "")
        found.append((_as_number(number), uid, _why_not(header, len(files))))
    found.sort()
    numbers = Counter(number for number, _, _ in found)
    return [
        # Not every series has a number of its own; the end of its UID tells it apart.
        Series(uid, f"s{number}" if numbers[number] == 1 and number >= 0 else f"s{uid[-8:]}", why)
        for number, uid, why in found
    ]


def series_files(folder: Path, uid: str | None = None) -> tuple[str, ...]:
    """The files of a series in the order of its slices; of the first one where none is named."""
    reader = sitk.ImageSeriesReader
    return tuple(reader.GetGDCMSeriesFileNames(str(folder), *([uid] if uid else [])))


def _why_not(header: dict[str, str], files: int) -> str:
    modality = header.get(_MODALITY, "")
    if not header:
        return "its files cannot be read"
    if modality in _NO_IMAGES:
        return f"a series of kind {modality}, no images"
    if "LOCALIZER" in header.get(_IMAGE_TYPE, "").upper():
        return "a localizer"
    if files == 1 and _as_number(header.get(_FRAMES, "")) <= 1:
        return "a single picture, no volume"
    return ""


def _header(file: str) -> dict[str, str]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return {}
    tags = (_MODALITY, _IMAGE_TYPE, _FRAMES, _SERIES_NUMBER)
    return {
        tag: reader.GetMetaData(tag).strip() if reader.HasMetaDataKey(tag) else "" for tag in tags
    }


def _as_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return -1
