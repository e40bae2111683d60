"""What INPUTS of `oflsam2 cohort` name: files, folders, globs, lists, DICOM folders."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from OFLSAM2Core.cohort.case_lists import is_list, read_case_list
from OFLSAM2Core.cohort.cases import CaseInput, FoundCases, file_name, without_shared_ending
from OFLSAM2Core.cohort.dicom_cases import Series, find_series
from OFLSAM2Core.data.validation import MOST_VOLUMES
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_file import is_dicom
from OFLSAM2Core.io.frames import frame_files
from OFLSAM2Core.io.image_files import is_image_file
from OFLSAM2Core.io.image_names import split_images
from OFLSAM2Core.io.reading import case_name
from OFLSAM2Core.io.seg_nrrd import SEGMENTATION_EXTENSIONS

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
"""nnU-Net's names: CASE_0000 is the first channel of CASE, CASE_0001 the second."""

_LABELS = re.compile(r"^(?P<case>.+)_(label|labels|seg|mask)$")
"""Segmentations beside their images: left out where CASE_image is there."""


@dataclass(frozen=True)
class _Place:
    """A volume that was found.

    source: where it lies. names: from short to long; a longer one is used where the shorter ones of
    two volumes are the same. further: sources of co-registered volumes.
    """

    source: str
    names: tuple[str, ...]
    further: tuple[str, ...] = ()


def find_cases(
    inputs: Sequence[str], *, skip: Iterable[Path] = (), limit: int | None = None
) -> FoundCases:
    """The cases that `inputs` name, in order, each once.

    inputs: paths of image files, folders (searched with the folders in them), globs, lists (see
        `read_case_list`; `LIST.json#SECTION` for another section than "testing"), DICOM folders
        (every series that is a volume is a case), `FOLDER#SERIES_UID`, and `IMAGE+IMAGE2` for
        co-registered volumes. In folders and globs nnU-Net's channels of a case are such volumes.
    skip: folders that are not searched, those of outputs.
    limit: only the first so many cases.

    Case names come from file names, with the folder in front where two would be the same. Where
    several inputs are given, a path that does not exist or holds no volume is a case, too: it fails
    by itself. Raises InputError naming the input that does not exist, holds no volume, or has too
    many channels.

    >>> find_cases(["imagesTs"]).cases
    (CaseInput(name='heart_004', source='/data/imagesTs/heart_004_0000.nii.gz'), ...)
    """
    skipped = {os.path.realpath(path) for path in skip}
    left_out: list[tuple[str, str]] = []
    places: list[_Place] = []
    for text in inputs:
        path = Path(text).expanduser()
        if len(inputs) > 1 and not os.path.lexists(path) and _is_plain(text):
            places.append(_place_of_file(path.absolute()))
            continue
        found = _places_of(text, lambda path: os.path.realpath(path) in skipped, left_out)
        if not found and len(inputs) > 1 and not glob.has_magic(text):
            found = [_place_of_file(path.absolute())]
        if not found:
            raise InputError(
                f"'{text}' holds no volume to segment.", _why_nothing(left_out) or _KINDS
            )
        places += found
    places = list({(place.source, *place.further): place for place in places}.values())
    cases = [
        CaseInput(name, place.source, place.further)
        for name, place in zip(_unique_names(places), places, strict=True)
    ]
    return FoundCases(tuple(cases[:limit]), tuple(dict(left_out).items()))


def _is_plain(text: str) -> bool:
    """Whether the words name one path, and no glob, series, section or several volumes."""
    return not glob.has_magic(text) and "#" not in text and "+" not in text


_KINDS = (
    "Give image files, folders with image files or DICOM series, a glob, or a CSV, TSV or JSON "
    "list of them."
)


def _why_nothing(left_out: list[tuple[str, str]]) -> str:
    return "; ".join(f"'{path}' was left out: {why}" for path, why in left_out[:3])


def _places_of(
    text: str, is_skipped: Callable[[Path], bool], left_out: list[tuple[str, str]]
) -> list[_Place]:
    path = Path(text).expanduser()
    if path.is_dir():
        return _in_folder(path.absolute(), is_skipped, left_out)
    if path.is_file():
        return _in_list(path) if is_list(path) else [_place_of_file(path.absolute())]
    before, number_sign, after = text.rpartition("#")
    if number_sign and is_list(Path(before)) and Path(before).is_file():
        return _in_list(Path(before), after)
    if number_sign and Path(before).is_dir():
        source = f"{Path(before).absolute()}#{after}"
        return [_Place(source, (f"{Path(before).name}_s{after[-8:]}",))]
    if glob.has_magic(str(path)):
        return _in_glob(path, is_skipped, left_out)
    if "+" in text:
        return [_place_of_volumes([each.absolute() for each in split_images(path)])]
    raise InputError(f"There is no file or folder '{text}'.", "Check the path.")


def _in_list(path: Path, section: str | None = None) -> list[_Place]:
    places = []
    for name, images in read_case_list(path.absolute(), section):
        place = _place_of_volumes([image.absolute() for image in images])
        places.append(replace(place, names=(name, *place.names)) if name else place)
    return places


def _in_glob(
    pattern: Path, is_skipped: Callable[[Path], bool], left_out: list[tuple[str, str]]
) -> list[_Place]:
    matches = sorted(Path(match).absolute() for match in glob.glob(str(pattern), recursive=True))
    if not matches:
        raise InputError(f"No file or folder is called like '{pattern}'.", "Check the pattern.")
    places: list[_Place] = []
    files = [match for match in matches if match.is_file()]
    for match in matches:
        if match.is_dir() and not files:
            places += _in_folder(match, is_skipped, left_out)
    images = [match for match in files if not is_list(match)]
    places += [_place_of_volumes(volumes) for volumes in _by_case(pattern, images)]
    return _shortened(places)


def _place_of_volumes(paths: Sequence[Path]) -> _Place:
    """The place of co-registered volumes of one patient. The first one names the case."""
    first, *further = [_place_of_file(path) for path in paths]
    return replace(first, further=tuple(place.source for place in further))


def _place_of_file(path: Path) -> _Place:
    if is_dicom(path):  # One slice names its series.
        series = find_series([path])
        if series and not series[0].is_several_frames:
            return _place_of_series(series[0])
    stem = case_name(path)
    return _Place(str(path), (stem, *_with_folders(stem, path.parent)))


def _place_of_series(series: Series) -> _Place:
    folder = series.folder
    own = folder.name if series.alone else f"{folder.name}_{series.short_name}"
    names = (own, *_with_folders(own, folder.parent), f"{own}_{series.uid}")
    return _Place(series.source, names)


def _in_folder(
    root: Path, is_skipped: Callable[[Path], bool], left_out: list[tuple[str, str]]
) -> list[_Place]:
    places: list[_Place] = []
    perhaps_dicom: list[Path] = []
    folders = [root]
    while folders:
        folder = folders.pop(0)
        # A cohort's own outputs are no inputs.
        if is_skipped(folder) or (folder / "manifest.jsonl").is_file():
            left_out.append((str(folder), "the outputs of a cohort"))
            continue
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        files = [entry for entry in entries if entry.is_file()]
        images = _images(files, left_out)
        dicom = [path for path in files if not is_image_file(path) and is_dicom(path)]
        places += _shortened([_place_of_volumes(volumes) for volumes in _by_case(folder, images)])
        perhaps_dicom += dicom
        if not images and not dicom and len(frame_files(folder)) > 1:
            names = (folder.name, *_with_folders(folder.name, folder.parent))
            places.append(_Place(str(folder), names))
        folders[:0] = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    # All folders are searched together: a series may lie in several.
    for series in find_series(perhaps_dicom):
        if series.left_out:
            left_out.append((series.source, series.left_out))
        else:
            places.append(_place_of_series(series))
    return places


def _images(files: list[Path], left_out: list[tuple[str, str]]) -> list[Path]:
    """Those of a folder's files that are volumes; segmentations beside them are left out."""
    images = []
    stems = {case_name(path) for path in files if is_image_file(path)}
    headers = {path.with_suffix("").name for path in files if path.suffix.lower() == ".hdr"}
    for path in files:
        labels = _LABELS.match(case_name(path))
        if path.suffix.lower() == ".zip":
            left_out.append((str(path), "an archive: name it, or give a glob"))
        elif not is_image_file(path):
            continue
        elif path.name.lower().endswith(SEGMENTATION_EXTENSIONS):
            left_out.append((str(path), "a segmentation"))
        elif labels and f"{labels['case']}_image" in stems:
            left_out.append((str(path), f"the labels of {labels['case']}_image"))
        elif path.suffix.lower() != ".img" or path.stem not in headers:
            images.append(path)
    return images


def _by_case(given: Path, images: list[Path]) -> list[list[Path]]:
    """The channels of each case where the files are channels, else each file by itself.

    They are where all are numbered, some case has a 0000 and a 0001, and there are several cases,
    or no more numbers than volumes of a case (else patients are numbered so). Raises InputError
    where a case then has too many, or lacks one.
    """
    cases: dict[tuple[Path, str], dict[str, Path]] = {}
    for path in images:
        match = _CHANNEL.match(case_name(path))
        if match is None:
            return [[path] for path in images]
        cases.setdefault((path.parent, match["case"]), {})[match["channel"]] = path
    if not any({"0000", "0001"} <= set(found) for found in cases.values()) or (
        len(cases) == 1 and len(images) > MOST_VOLUMES
    ):
        return [[path] for path in images]
    for (folder, case), found in cases.items():
        one = f"Name the one that the task was learned from: '{folder / '*_0000.*'}'."
        expected = [f"{number:04d}" for number in range(len(found))]
        if sorted(found) != expected:
            missing = min(set(expected) - set(found))
            raise InputError(
                f"The case '{case}' of '{given}' has channels, but no {missing}.",
                f"Add it, or use one channel alone. {one}",
            )
        if len(found) > MOST_VOLUMES:
            raise InputError(
                f"The case '{case}' of '{given}' has {len(found)} channels, and {MOST_VOLUMES} at "
                "most can be used.",
                f"{one} Or give a list with IMAGE+IMAGE2 of each case.",
            )
    return [[found[channel] for channel in sorted(found)] for found in cases.values()]


def _with_folders(name: str, folder: Path) -> tuple[str, ...]:
    """The name with the folders it lies in before it, one more each time."""
    longer = []
    for parent in (folder, *folder.parents):
        if parent.name:
            name = f"{parent.name}_{name}"
            longer.append(name)
    return tuple(longer)


def _shortened(places: list[_Place]) -> list[_Place]:
    """Without an ending that says of every file only that it is an image."""
    names = without_shared_ending(
        [place.names[0] for place in places], [*_channel_ending(places), "_image"]
    )
    return [
        replace(place, names=(name, *_longer(place, name)))
        for name, place in zip(names, places, strict=True)
    ]


def _channel_ending(places: list[_Place]) -> list[str]:
    match = _CHANNEL.match(places[0].names[0]) if places else None
    return [f"_{match['channel']}"] if match else []


def _longer(place: _Place, name: str) -> Iterable[str]:
    dropped = len(place.names[0]) - len(name)
    return (other[: len(other) - dropped] for other in place.names[1:])


def _unique_names(places: list[_Place]) -> list[str]:
    """For every place its shortest name that no other has, fit for a file name."""
    depth = [0] * len(places)
    while True:
        names = [
            file_name(place.names[min(level, len(place.names) - 1)])
            for place, level in zip(places, depth, strict=True)
        ]
        counts = Counter(name.casefold() for name in names)
        alike = [number for number, name in enumerate(names) if counts[name.casefold()] > 1]
        longer = [number for number in alike if depth[number] + 1 < len(places[number].names)]
        if not longer:
            break
        for number in longer:
            depth[number] += 1
    seen: Counter[str] = Counter()
    for number in alike:  # Paths that differ only in what a file name cannot hold.
        seen[names[number].casefold()] += 1
        names[number] = f"{names[number]}-{seen[names[number].casefold()]}"
    return names
