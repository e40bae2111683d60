"""DICOM series that are volumes, found among files by their headers."""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from OFLSAM2Core.io.dicom_file import SEGMENTATION, is_dicom, text_of

_TAGS = ["SeriesInstanceUID", "Modality", "ImageType", "NumberOfFrames", "SeriesNumber"]
_TAGS += ["SOPClassUID"]

_NO_IMAGES = frozenset(
    ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO")
    + ("REG", "FID", "DOC", "AU", "ECG", "PLAN", "RWV", "M3D")
)
"""Modalities of series that hold no volume to segment."""


@dataclass(frozen=True)
class Series:
    """A series.

    folder: the one that holds all of its files, perhaps further down. short_name: tells it apart
    from the others of that folder ("s3"). alone: whether there is no other in the folder.
    left_out: why it is no case, or "". is_several_frames: whether one file holds a volume.
    """

    uid: str
    folder: Path
    short_name: str
    alone: bool
    left_out: str
    is_several_frames: bool

    @property
    def source(self) -> str:
        """As `read_volume` takes it."""
        return f"{self.folder}#{self.uid}"


def find_series(files: Iterable[Path]) -> list[Series]:
    """The series of DICOM files, by folder and series number. Files that are no DICOM are passed
    over; one that cannot be read is left to the reader of its series."""
    members: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in files:
        header = _header(path)
        if header is not None and (uid := text_of(header, "SeriesInstanceUID")):
            members[uid].append((path, header))
    places = {uid: _common_folder([path for path, _ in own]) for uid, own in members.items()}
    whys = {uid: _why_not([header for _, header in own]) for uid, own in members.items()}
    numbers = {uid: _number(own[0][1], "SeriesNumber") for uid, own in members.items()}
    in_folder = Counter(places[uid] for uid in members if not whys[uid])
    numbered = Counter((places[uid], numbers[uid]) for uid in members)
    found = []
    for uid in sorted(members, key=lambda uid: (places[uid], numbers[uid], uid)):
        folder, number = places[uid], numbers[uid]
        # Not every series has a number of its own; the end of its UID tells it apart.
        own_number = number >= 0 and numbered[folder, number] == 1
        name = f"s{number}" if own_number else f"s{uid.replace('.', '')[-8:]}"
        frames = _number(members[uid][0][1], "NumberOfFrames") > 1
        found.append(Series(uid, folder, name, in_folder[folder] <= 1, whys[uid], frames))
    return found


def series_files(folder: Path, uid: str) -> list[Path]:
    """The files of a series in a folder and below it, by path."""
    return [
        path
        for path in files_below(folder)
        if (header := _header(path)) is not None and text_of(header, "SeriesInstanceUID") == uid
    ]


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and below it that may be DICOM, by path."""
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(base, name)
            if not name.startswith(".") and is_dicom(path):
                yield path


def _header(path: Path) -> Dataset | None:
    if not is_dicom(path):
        return None
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
    except Exception:  # Any kind of error: the parser checks little.
        return None


def _why_not(headers: list[Dataset]) -> str:
    first = headers[0]
    modality = text_of(first, "Modality")
    if modality in _NO_IMAGES or text_of(first, "SOPClassUID").startswith(SEGMENTATION):
        return f"a series of kind {modality or 'SEG'}, no images"
    if "LOCALIZER" in text_of(first, "ImageType").upper():
        return "a localizer"
    if len(headers) == 1 and _number(first, "NumberOfFrames") <= 1:
        return "a single picture, no volume"
    return ""


def _common_folder(paths: list[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _number(header: Dataset, keyword: str) -> int:
    """-1 where there is none."""
    try:
        return int(float(text_of(header, keyword)))
    except ValueError:
        return -1
