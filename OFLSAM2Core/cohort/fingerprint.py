"""Whether an input is still the one that was segmented: hashes of its files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from OFLSAM2Core.cohort.dicom_cases import files_below, series_files
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_folder import split_series
from OFLSAM2Core.io.frames import frame_files

_CHUNK = 1 << 20
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file\s*:)\s*(\S.*?)\s*$", re.M | re.I)
"""Where a header (MHD, NHDR) names the file with the voxels."""


@dataclass(frozen=True)
class Fingerprint:
    """sha256: of the contents of the input's files. files, bytes: how many, how large together.
    stamp: of their names, sizes and times of change; while it is the same, so are the contents.
    """

    sha256: str
    files: int
    bytes: int
    stamp: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fingerprint(*sources: str) -> Fingerprint:
    """The fingerprint of a case's sources as `read_volume` takes them, in order.

    Reads every file once.

    Raises InputError where a file cannot be read.
    """
    files = [path for source in sources for path in files_of(source)]
    stamp = _stamp([path for source in sources for path in _near_files(source)])
    digest, size = hashlib.sha256(), 0
    for path in files:
        own = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    own.update(chunk)
                    size += len(chunk)
        except OSError as error:
            raise _unreadable(path, error) from error
        digest.update(own.digest())
    return Fingerprint(digest.hexdigest(), len(files), size, stamp)


def stamp_of(*sources: str) -> str | None:
    """`Fingerprint.stamp` without reading the files; None where the input is not there."""
    try:
        return _stamp([path for source in sources for path in _near_files(source)])
    except InputError:
        return None


def files_of(source: str) -> list[Path]:
    """The files of a source. Raises InputError where it is not there."""
    path, series = split_series(source)
    files = _near_files(source) if series is None else series_files(path, series)
    if not files:
        raise _gone(source)
    return files


def _near_files(source: str) -> list[Path]:
    """The files of a source; of a series all DICOM files of its folder, whose headers need not be
    read then."""
    path, _ = split_series(source)
    if path.is_dir():
        files = list(files_below(path)) or frame_files(path)
        if not files:
            raise _gone(source)
        return files
    if not path.is_file():
        raise _gone(source)
    return [path, *_data_files(path)]


def _data_files(path: Path) -> list[Path]:
    if path.suffix.lower() == ".hdr":
        data = path.with_suffix(".img")
    elif path.suffix.lower() in (".mhd", ".nhdr"):
        match = _DATA_FILE.search(path.read_bytes()[:100_000])
        data = path.parent / match[1].decode("utf-8", "replace") if match else path
    else:
        return []
    return [data] if data.is_file() and data != path else []


def _stamp(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"'{path}' cannot be read: {error.strerror}.", "Check that the file is still there."
    )


def _gone(source: str) -> InputError:
    return InputError(
        f"'{source}' does not exist (any more).", "Check the path, or put the files back."
    )
