"""Where the cases of a folder are, in the layouts that people have.

- our own: `CASE_image.nii.gz`, `CASE_label.nii.gz`, and `support` and `test` in `dataset.json`;
- our own for sequences: `frames/NAME/*.jpg`, `masks/NAME/*.png`, and `sequences` in `dataset.json`;
- Medical Segmentation Decathlon: `imagesTr`, `labelsTr`, and `training` in `dataset.json`;
- nnU-Net: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, or `dataset` in `dataset.json`;
- BIDS: `sub-*/anat/*.nii.gz`, with labels beside them or in `derivatives`, paired by their names.

Channels of a case are co-registered volumes of it, the first three where there are more, with a
warning: files of their own (nnU-Net's names, a list in `dataset.json`), or volumes of one 4D
image where `dataset.json` names them (`modality`, `channel_names`).
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from OFLSAM2Core.data.validation import MOST_VOLUMES
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_files import IMAGE_EXTENSIONS
from OFLSAM2Core.io.label_table_formats import read_text
from OFLSAM2Core.runtime.counted import counted

SUPPORT = 3
"""So many cases are learned from where a folder does not say which."""

_FORM = "See the README, section 'Evaluate', for the folders that can be read."

# What names a derivative, and not the image it was made from.
_OF_LABELS = ("desc", "label", "space", "seg", "atlas", "res", "hemi", "den")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseFiles:
    """images: of the co-registered volumes of a case, or one 4D image of them. labels: of the first
    volume."""

    images: tuple[Path, ...]
    labels: Path


@dataclass(frozen=True)
class Layout:
    """What is in a folder.

    files: by the case's name, in order.
    support, test: names, None where the folder does not say.
    labels: the data or the file of a label table; None where there is none.
    volumes: how many co-registered volumes a case has, those that are not used left out. stacked:
        whether they are volumes of one 4D image.
    sequences: whether cases are sequences of frames, each learned from frames of its own.
    """

    name: str
    files: dict[str, CaseFiles]
    labels: Any = None
    support: tuple[str, ...] | None = None
    test: tuple[str, ...] | None = None
    nominal_spacing: bool = False
    volumes: int = 1
    stacked: bool = False
    sequences: bool = False


def find_layout(folder: Path) -> Layout:
    """Raises InputError naming the folder or the file: none of the layouts, or files missing."""
    path = folder / "dataset.json"
    if not path.is_file():
        if any(folder.glob("sub-*")):
            return _bids(folder)
        if (folder / "imagesTr").is_dir() and (folder / "labelsTr").is_dir():
            return _folders(folder, {})
        why = "is no folder" if not folder.is_dir() else "has no dataset.json, and is not BIDS"
        raise InputError(f"'{folder}' {why}.", _FORM)
    data = _read_json(path)
    if "sequences" in data:
        return _sequences(folder, path, data)
    if "support" in data:
        return _own(folder, path, data)
    listed = _nnunet_list(path, data) or data.get("training")
    if "test" in data and not listed:
        return _own(folder, path, data)
    if isinstance(listed, list) and all(isinstance(one, dict) for one in listed) and listed:
        return _decathlon(folder, path, data, listed)
    if (folder / "imagesTr").is_dir():
        return _folders(folder, data)
    raise InputError(f"'{path}' does not list 'support' and 'test' cases.", _FORM)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}.", _FORM) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"'{path}' is not JSON: {error}.", _FORM) from error
    if not isinstance(data, dict):
        raise InputError(f"'{path}' does not list 'support' and 'test' cases.", _FORM)
    return data


def _own(folder: Path, path: Path, data: dict[str, Any]) -> Layout:
    names: list[tuple[str, ...]] = []
    for key in ("support", "test"):
        listed = data.get(key)
        if not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
            raise InputError(f"'{path}' does not list 'support' and 'test' cases.", _FORM)
        names.append(tuple(listed))
    files = {}
    for case in (*names[0], *names[1]):
        pair = [folder / f"{case}_{kind}.nii.gz" for kind in ("image", "label")]
        for file in pair:
            _require(path, case, file)
        files[case] = CaseFiles((pair[0],), pair[1])
    return Layout(
        str(data.get("name", folder.name)),
        files,
        data.get("labels"),
        names[0],
        names[1],
        nominal_spacing=bool(data.get("nominal_spacing", False)),
    )


def _sequences(folder: Path, path: Path, data: dict[str, Any]) -> Layout:
    names = data["sequences"]
    if not (names and isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"'{path}' does not list 'sequences' by name.", _FORM)
    files = {}
    for name in names:
        pair = folder / "frames" / name, folder / "masks" / name
        for each in pair:
            if not each.is_dir():
                raise InputError(
                    f"'{path}' lists the sequence '{name}', but there is no folder '{each}'.",
                    "Add the folder, or take the sequence off the list.",
                )
        files[name] = CaseFiles((pair[0],), pair[1])
    return Layout(
        str(data.get("name", folder.name)),
        files,
        data.get("labels"),
        (),
        tuple(names),
        nominal_spacing=True,
        sequences=True,
    )


def _nnunet_list(path: Path, data: dict[str, Any]) -> list[dict[str, Any]] | None:
    """nnU-Net's `dataset`, which is keyed by the case's name, as a list like the Decathlon's; None
    where there is none."""
    listed = data.get("dataset")
    if not (isinstance(listed, dict) and listed):
        return None
    entries = []
    for name, entry in listed.items():
        if not (isinstance(entry, dict) and isinstance(entry.get("images"), list)):
            raise InputError(f"The case '{name}' of '{path}' has no 'images'.", _FORM)
        entries.append({**entry, "name": str(name), "image": entry["images"]})
    return entries


def _decathlon(
    folder: Path, path: Path, data: dict[str, Any], listed: list[dict[str, Any]]
) -> Layout:
    files = {}
    for entry in listed:
        try:
            images, labels = entry["image"], folder / str(entry["label"])
        except KeyError as error:
            raise InputError(f"A case of '{path}' has no {error}.", _FORM) from error
        case = str(entry.get("name", _stem(labels)))
        several = isinstance(images, list) and len(images) > 0
        paths = [folder / str(image) for image in images] if several else [folder / str(images)]
        # nnU-Net took the list over, and gave images a channel in their names.
        if not paths[0].is_file():
            paths = _numbered(paths[0]) or paths
        for file in (*paths, labels):
            _require(path, case, file)
        files[case] = CaseFiles(tuple(paths), labels)
    named = _channel_names(data)
    stacked = len(named) > 1 and all(len(each.images) == 1 for each in files.values())
    count = len(named) if stacked else _most_images(files)
    return Layout(
        str(data.get("name", folder.name)),
        files,
        data.get("labels"),
        volumes=_used(folder, count, named),
        stacked=stacked,
    )


def _numbered(image: Path) -> list[Path]:
    """The files CASE_0000, CASE_0001 and so on of the image CASE, up to the first missing one."""
    found: list[Path] = []
    while True:
        name = f"{_stem(image)}_{len(found):04d}{_extension(image)}"
        if not image.with_name(name).is_file():
            return found
        found.append(image.with_name(name))


def _folders(folder: Path, data: dict[str, Any]) -> Layout:
    """nnU-Net's folders of images and labels."""
    images = {_stem(path): path for path in _images(folder / "imagesTr")}
    channels = {re.sub(r"_0000$", "", name) for name in images if re.search(r"_0000$", name)}
    files, unlabelled = {}, []
    labels = {_stem(path): path for path in _images(folder / "labelsTr")}
    for case in sorted(channels or images):
        found = _channels(images, case) if channels else [images[case]]
        if case in labels:
            files[case] = CaseFiles(tuple(found), labels[case])
        else:
            unlabelled.append(case)
    without = sorted(set(labels) - set(files))
    if without:
        raise InputError(
            f"'{folder / 'labelsTr'}' has labels of '{without[0]}', but there is no image of it.",
            "Add the image, or take the labels out.",
        )
    if not files:
        raise InputError(f"'{folder}' has no case with image and labels.", _FORM)
    if unlabelled:
        _log.warning(
            "%s in '%s' %s no labels; left out.",
            counted(len(unlabelled), "image"),
            folder,
            "has" if len(unlabelled) == 1 else "have",
        )
    used = _used(folder, _most_images(files), _channel_names(data))
    return Layout(str(data.get("name", folder.name)), files, data.get("labels"), volumes=used)


def _channels(images: dict[str, Path], case: str) -> list[Path]:
    """The channels of a case, in order. Raises InputError where one between them is missing."""
    found = sorted(name for name in images if re.fullmatch(re.escape(case) + r"_\d{4}", name))
    for number, name in enumerate(found):
        if name != f"{case}_{number:04d}":
            raise InputError(
                f"The case '{case}' has the channel '{images[name].name}', but no "
                f"'{case}_{number:04d}'.",
                "Add the channel that is missing, or take the others out.",
            )
    return [images[name] for name in found]


def _channel_names(data: dict[str, Any]) -> list[str]:
    """The channels' names in the order of their numbers, as `dataset.json` has them; empty where it
    has none."""
    named = data.get("channel_names", data.get("modality"))
    return [str(name) for name in named.values()] if isinstance(named, dict) else []


def _most_images(files: dict[str, CaseFiles]) -> int:
    return max(len(each.images) for each in files.values())


def _used(folder: Path, count: int, named: list[str]) -> int:
    """How many volumes of a case are used. A warning says where not all are."""
    if count > MOST_VOLUMES:
        names = f" ({', '.join(named[:MOST_VOLUMES])})" if len(named) == count else ""
        _log.warning(
            "Cases in '%s' have %d channels; the first %d are used%s.",
            folder,
            count,
            MOST_VOLUMES,
            names,
        )
    return min(count, MOST_VOLUMES)


def _bids(folder: Path) -> Layout:
    found = [path for path in _images(folder, deep=True) if path.name.startswith("sub-")]
    labels = [path for path in found if _is_labels(folder, path)]
    images = [
        path
        for path in found
        if path not in set(labels) and "derivatives" not in path.relative_to(folder).parts
    ]
    files: dict[str, CaseFiles] = {}
    for path in labels:
        image = _image_of(path, images)
        case = _stem(image)
        if case in files:
            raise InputError(
                f"The image '{image.name}' has several labels: '{files[case].labels.name}' and "
                f"'{path.name}'.",
                "Leave one kind of labels in the folder.",
            )
        files[case] = CaseFiles((image,), path)
    if not files:
        raise InputError(
            f"'{folder}' has subjects, but no labels (*_dseg.nii.gz, *_mask.nii.gz).", _FORM
        )
    tables = sorted(folder.rglob("*dseg.tsv"))
    name = folder.name
    if (folder / "dataset_description.json").is_file():
        name = str(_read_json(folder / "dataset_description.json").get("Name", name))
    return Layout(name, dict(sorted(files.items())), tables[0] if tables else None)


def _is_labels(folder: Path, path: Path) -> bool:
    stem = _stem(path)
    if re.search(r"_(dseg|mask|seg|label|lesion|roi)$", stem) or re.search(r"_(seg|label)-", stem):
        return True
    return "labels" in path.relative_to(folder).parts


def _image_of(labels: Path, images: list[Path]) -> Path:
    """The image whose name the labels' name begins with, else the one of the same subject,
    session and run. Raises InputError where it is none or several."""
    stem = _stem(labels)
    begun = [path for path in images if re.match(re.escape(_stem(path)) + r"[_-]", stem)]
    if not begun:
        entities = _entities(stem)
        begun = [path for path in images if _entities(_stem(path)) == entities]
    if len(begun) != 1:
        candidates = ", ".join(f"'{path.name}'" for path in begun[:3]) or "none"
        raise InputError(
            f"The labels '{labels.name}' belong to no image by their name "
            f"({candidates} may be meant).",
            "Begin the name of labels with the whole name of their image.",
        )
    return begun[0]


def _entities(stem: str) -> dict[str, str]:
    pairs = (part.partition("-") for part in stem.split("_") if "-" in part)
    return {name: value for name, _, value in pairs if name not in _OF_LABELS}


def _images(folder: Path, deep: bool = False) -> list[Path]:
    return sorted(
        path
        for path in (folder.rglob("*") if deep else folder.glob("*"))
        if path.name.lower().endswith(IMAGE_EXTENSIONS)
        and not path.name.startswith(".")
        and not path.name.lower().endswith((".img", ".img.gz"))
    )


def _extension(path: Path) -> str:
    known = sorted(IMAGE_EXTENSIONS, key=len, reverse=True)
    return next((end for end in known if path.name.lower().endswith(end)), path.suffix)


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(_extension(path))]


def _require(listed_in: Path, case: str, file: Path) -> None:
    if not file.is_file():
        raise InputError(
            f"'{listed_in}' lists the case '{case}', but there is no '{file.name}'.",
            "Add the file, or take the case off the list.",
        )
