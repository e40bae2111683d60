"""The DICOM files of a folder and all below it, by series; every file that should be one is named
where it is none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_file import EXTENSIONS, DicomFile, is_dicom, read_dicom_file, text_of
from OFLSAM2Core.io.image_header import damaged

_MOST_FILES = 200_000

# What lies beside DICOM files without being meant as one.
_OTHERS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".txt", ".json", ".xml", ".html",
    ".htm", ".csv", ".tsv", ".pdf", ".exe", ".inf", ".ini", ".zip", ".gz", ".nii", ".nrrd", ".mha",
    ".mhd", ".md", ".log", ".css", ".js", ".db", ".dll", ".doc", ".docx", ".bat", ".sh", ".py",
    ".ds_store",
)  # fmt: skip


def split_series(path: str | Path) -> tuple[Path, str | None]:
    """Take "FOLDER#SERIES_UID" apart; the series is None where none is named."""
    text = str(path)
    if "#" in text and not os.path.lexists(text):
        folder, _, series = text.rpartition("#")
        return Path(folder), series
    return Path(text), None


def has_dicom(folder: Path) -> bool:
    """Whether there is a DICOM file in the folder or below it."""
    return any(is_dicom(path) for path in _candidates(folder))


def dicom_files(folder: Path) -> list[DicomFile]:
    """All DICOM objects in the folder and below it, but for directories of media.

    Raises InputError naming the file that cannot be read, or that should be one and is none.
    """
    found, others = [], []
    for path in _candidates(folder):
        if is_dicom(path):
            if path.name.upper() != "DICOMDIR":
                found.append(read_dicom_file(path))
        else:
            others.append(path)
    kinds = {(file.path.parent, file.path.suffix.lower()) for file in found}
    patterns = {(file.path.parent, _pattern(file.path)) for file in found}
    for path in others:
        named_alike = (path.parent, path.suffix.lower()) in kinds and not _is_text(path)
        numbered_alike = (path.parent, _pattern(path)) in patterns
        if named_alike or numbered_alike or path.suffix.lower() in EXTENSIONS:
            size = path.stat().st_size
            raise damaged(path, f"it is no DICOM file: {size} bytes, without its beginning")
    return found


def images_by_series(files: list[DicomFile]) -> dict[str, list[DicomFile]]:
    """Series UID to files, of those that are pictures."""
    series: dict[str, list[DicomFile]] = {}
    for file in files:
        if file.is_image:
            series.setdefault(file.series, []).append(file)
    return series


def choose_series(
    folder: Path, series: dict[str, list[DicomFile]], wanted: str | None
) -> list[DicomFile]:
    """The files of the series of that UID, or of the only one.

    Raises InputError that lists the series: no such one, or several to choose from.
    """
    if wanted is not None:
        if wanted in series:
            return series[wanted]
        raise InputError(
            f"The folder '{folder}' has no DICOM series '{wanted}'.", _choices(folder, series)
        )
    if len(series) > 1:
        raise InputError(
            f"The folder '{folder}' has {len(series)} DICOM series.", _choices(folder, series)
        )
    return next(iter(series.values()))


def _choices(folder: Path, series: dict[str, list[DicomFile]]) -> str:
    lines = [f"Choose one by '{folder}#SERIES_UID':"]
    for uid, files in sorted(series.items()):
        header = files[0].header
        described = " ".join(text_of(header, tag) for tag in ("Modality", "SeriesDescription"))
        below = os.path.relpath(files[0].path.parent, folder)
        where = "" if below == "." else f"  in {below}"
        count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
        lines.append(f"  {uid}  {count}  {described.strip()}{where}".rstrip())
    return "\n".join(lines)


def _candidates(folder: Path) -> Iterator[Path]:
    """Files that may be DICOM, in the folder and below; links to folders are not followed."""
    count = 0
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if name.startswith(".") or name.lower().endswith(_OTHERS):
                continue
            count += 1
            if count > _MOST_FILES:
                raise InputError(
                    f"The folder '{folder}' has more than {_MOST_FILES} files below it.",
                    "Give the folder of one series.",
                )
            path = Path(base, name)
            if path.is_file():
                yield path


def _pattern(path: Path) -> str:
    """The name, whatever numbers are in it: "IM#.dcm"."""
    return re.sub(r"\d+", "#", path.name)


def _is_text(path: Path) -> bool:
    """Notes and lists, which nobody takes for an image."""
    with open(path, "rb") as file:
        start = file.read(1024)
    return bool(start) and b"\0" not in start
