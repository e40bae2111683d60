"""A zip archive of images, as hospitals hand over studies: unpacked into a folder that vanishes."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from OFLSAM2Core.errors import InputError, ResourceError
from OFLSAM2Core.io.image_header import damaged, unusable
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.temporary import temporary_folder

# More than images shrink. Zip bombs are from 1000 on.
_MOST_PACKED = 200
_MOST_FILES = 100_000


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder with what is in the archive; where that is a single file or folder, this.

    Raises InputError naming the archive: damaged, with a password, with names that lead out of the
    folder, or that unpacks to far more than it holds; ResourceError where the disk is too small.
    """
    with temporary_folder() as target:
        with _opened(path) as archive:
            entries = _entries(archive)
            _check(path, entries)
            _check_room(path, entries, target)
            for entry in entries:
                archive.extract(entry, target)
        yield _only(target)


def check_archive(path: Path) -> None:
    """What `unpacked` would refuse of an archive, by its list of contents alone.

    Raises InputError naming the archive.
    """
    with _opened(path) as archive:
        _check(path, _entries(archive))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except NotImplementedError as error:
        raise unusable(
            path, f"it is packed in another way ({error})", "Unpack it first."
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise ResourceError(
            f"'{path}' could not be unpacked: {error.strerror or error}.",
            "Check that the disk of the temporary folder has space.",
        ) from error


def _entries(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [entry for entry in archive.infolist() if not entry.is_dir()]


def _check(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    size = sum(entry.file_size for entry in entries)
    if not entries:
        raise InputError(f"The archive '{path}' is empty.", "Give one with images.")
    if any(entry.flag_bits & 1 for entry in entries):
        raise InputError(f"The archive '{path}' has a password.", "Unpack it first.")
    if len(entries) > _MOST_FILES or size > _MOST_PACKED * path.stat().st_size + (1 << 20):
        raise InputError(
            f"The archive '{path}' would unpack to {counted(len(entries), 'file')} with "
            f"{size / 1e9:.1f} GB.",
            "Unpack it first, and give the folder of one image.",
        )
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if ".." in parts or entry.filename.startswith(("/", "\\")) or ":" in parts[0]:
            raise InputError(
                f"The archive '{path}' has a file that would lie outside of it "
                f"('{entry.filename}').",
                "Unpack it with care, and give the folder.",
            )


def _check_room(path: Path, entries: list[zipfile.ZipInfo], target: Path) -> None:
    size = sum(entry.file_size for entry in entries)
    free = shutil.disk_usage(target).free
    if free < size:
        raise ResourceError(
            f"'{path}' unpacks to {size / 1e6:.0f} MB; the temporary folder's disk has "
            f"{free / 1e6:.0f} MB free.",
            "Free some space, or set TMPDIR to a folder on a larger disk.",
        )


def _only(folder: Path) -> Path:
    """Down to where there is more than one thing."""
    while True:
        inside = [path for path in folder.iterdir() if path.name != "__MACOSX"]
        if len(inside) != 1:
            return folder
        folder = inside[0]
        if folder.is_file():
            return folder
