"""Where a case's outputs go, and that all of them appear or none."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy.typing as npt

from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.folder import PREVIEWS, UNFINISHED
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import ResourceError
from OFLSAM2Core.io.reading import write_confidence, write_segmentation

LAYOUTS = ("flat", "bids")


class Layout(Protocol):
    """How a cohort's folder is laid out. Picklable; knows nothing of other cases."""

    def stem(self, case: CaseInput) -> str:
        """Path of the case's segmentation below the cohort's folder, without an extension."""

    def write(
        self,
        folder: Path,
        case: CaseInput,
        volume: Volume,
        labels: npt.NDArray,
        confidence: npt.NDArray,
        structures: tuple[Structure, ...],
    ) -> None:
        """Write the case's files below `folder`, where they would lie below the cohort's."""


class FlatLayout:
    """CASE.seg.nrrd and CASE_confidence.nrrd, side by side. NRRD holds every grid."""

    def stem(self, case: CaseInput) -> str:
        """The case's name."""
        return case.name

    def write(
        self,
        folder: Path,
        case: CaseInput,
        volume: Volume,
        labels: npt.NDArray,
        confidence: npt.NDArray,
        structures: tuple[Structure, ...],
    ) -> None:
        """Write both."""
        write_segmentation(folder / f"{case.name}.seg.nrrd", labels, volume, structures)
        write_confidence(folder / f"{case.name}_confidence.nrrd", confidence, volume)


def layout_named(name: str) -> Layout:
    if name == "bids":
        from OFLSAM2Core.cohort.bids import BidsLayout

        return BidsLayout()
    return FlatLayout()


def preview_path(folder: Path, case: str) -> Path:
    """The picture of a case in the report."""
    return folder / PREVIEWS / f"{case}.webp"


@contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """Gives a folder to write into; at the end its files move to their places below `folder`, or
    vanish.

    Raises ResourceError where the disk does not take them.
    """
    staging = folder / UNFINISHED / secrets.token_hex(8)
    try:
        staging.mkdir(parents=True)
        yield staging
        _publish(staging, folder)
    except OSError as error:
        raise ResourceError(
            f"The outputs cannot be written into '{folder}': {error.strerror or error}.",
            "Check that the disk has space and the folder is writable.",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, folder: Path) -> None:
    files = [path for path in staging.rglob("*") if path.is_file()]
    places = [folder / path.relative_to(staging) for path in files]
    # What may fail comes first: afterwards files only change their names.
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    for path, place in zip(files, places, strict=True):
        os.replace(path, place)


def written_files(staging: Path) -> dict[str, int]:
    """Files below a folder: path from there, with slashes, and size in bytes."""
    return {
        path.relative_to(staging).as_posix(): path.stat().st_size
        for path in sorted(staging.rglob("*"))
        if path.is_file()
    }


def missing_outputs(folder: Path, outputs: dict[str, int]) -> list[str]:
    """Those of a case's outputs that are not there any more, or of another size."""
    return [name for name, size in outputs.items() if _size(folder / name) != size]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
