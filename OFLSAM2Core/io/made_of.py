"""Which image a segmentation's file says that it was made of."""

from __future__ import annotations

import re
from pathlib import Path

from OFLSAM2Core.data.image_identity import IDENTITY_LENGTH, IDENTITY_TAG
from OFLSAM2Core.io.image_files import kind_of, read_header
from OFLSAM2Core.io.unforeseen import in_words
from OFLSAM2Core.io.zipped import unpacked

# In Slicer's segmentations it is a tag, in other headers a pair or a word of the description.
_WRITTEN = re.compile(rf"{re.escape(IDENTITY_TAG)}[:= ]+([0-9a-f]{{{IDENTITY_LENGTH}}})\b")


@in_words
def images_made_of(path: str | Path) -> set[str]:
    """The `image_identity` of every image that the file names; empty where it names none, as files
    of other programs do. More than one where segments were put together.

    Raises InputError naming the file: missing, damaged.
    """
    path = Path(path)
    if path.is_dir():
        return set()
    kind = kind_of(path)
    if kind == "zip":
        with unpacked(path) as inside:
            return images_made_of(inside)
    if kind == "dicom":
        from OFLSAM2Core.io.dicom_file import read_dicom_file, text_of

        return _found(text_of(read_dicom_file(path).header, "ContentDescription"))
    if kind in ("nifti", "nrrd", "meta"):
        return _found(*(f"{key}={value}" for key, value in read_header(path, kind).fields.items()))
    return set()


def in_one_line(identity: str) -> str:
    """As it stands in a description of at most 64 letters."""
    return f"{IDENTITY_TAG} {identity}"


def _found(*texts: str) -> set[str]:
    return {found for text in texts for found in _WRITTEN.findall(text)}
