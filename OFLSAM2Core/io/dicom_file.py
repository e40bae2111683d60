"""One DICOM file: what kind of object it is, and whether it is whole, without its pixels in memory.

Headers are read by pydicom. Where the pixels are in the file is kept, so that a file which ends
before them is found before anything else is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.image_header import damaged, unusable

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"

_DIRECTORY = "1.2.840.10008.1.3.10"

# Storage classes whose objects have no pixels: reports, presentations, plans, documents, curves.
_WITHOUT_PIXELS = tuple(
    "1.2.840.10008.5.1.4.1.1." + part
    for part in ("88.", "11.", "9.", "104.", "66", "67", "68.", "481.3", "481.4", "481.5",
                 "481.6", "481.7", "481.8", "481.9", "4.2", "78.", "79.", "80.", "90.", "131",
                 "200.")
)  # fmt: skip
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_DEFLATED = ("1.2.840.10008.1.2.1.99",)
_PIXEL_TAGS = {0x7FE00008: "f4", 0x7FE00009: "f8", 0x7FE00010: ""}
_UNDEFINED = 0xFFFFFFFF
_BLOCK = 4

EXTENSIONS = (".dcm", ".dicom", ".ima", ".dic")


@dataclass(frozen=True, eq=False)
class DicomFile:
    """The header of a DICOM file.

    header: the data set without its pixels.
    pixel_start: the byte at which the value of the pixel data begins; None: there are none.
    pixel_bytes: their length; None where they are encapsulated (compressed).
    float_type: "f4" or "f8" where pixels are real numbers, else "".
    in_words: pixels are stored as words of 16 bits, also where each takes 8.
    """

    path: Path
    header: Dataset
    pixel_start: int | None
    pixel_bytes: int | None
    float_type: str = ""
    in_words: bool = False

    @property
    def sop_class(self) -> str:
        return text_of(self.header, "SOPClassUID")

    @property
    def sop_instance(self) -> str:
        return text_of(self.header, "SOPInstanceUID")

    @property
    def series(self) -> str:
        return text_of(self.header, "SeriesInstanceUID")

    @property
    def transfer_syntax(self) -> str:
        meta = getattr(self.header, "file_meta", None)
        return text_of(meta, "TransferSyntaxUID") if meta is not None else ""

    @property
    def frames(self) -> int:
        return max(1, int(number_of(self, "NumberOfFrames") or 1))

    @property
    def is_segmentation(self) -> bool:
        return self.sop_class in (SEGMENTATION, LABELMAP_SEGMENTATION)

    @property
    def is_structure_set(self) -> bool:
        return self.sop_class == STRUCTURE_SET

    @property
    def is_directory(self) -> bool:
        """A DICOMDIR: the table of contents of a disc."""
        meta = getattr(self.header, "file_meta", None)
        return meta is not None and text_of(meta, "MediaStorageSOPClassUID") == _DIRECTORY

    @property
    def is_image(self) -> bool:
        """Whether it should have pixels that are a picture, be they there or not."""
        if self.is_segmentation or self.is_structure_set or self.is_directory:
            return False
        if self.pixel_start is not None or "Rows" in self.header:
            return True
        # A picture that was cut in its header, and not a report or a private object.
        sop_class = self.sop_class
        is_storage = sop_class.startswith(_STORAGE) or not sop_class
        return is_storage and not sop_class.startswith(_WITHOUT_PIXELS)


def is_dicom(path: Path) -> bool:
    """By its first bytes; also of files without preamble, as old scanners wrote them."""
    try:
        with open(path, "rb") as file:
            start = file.read(140)
    except OSError:
        return False
    if start[128:132] == b"DICM":
        return True
    # Without preamble the first element is of group 2 or 8, with an explicit or implicit length.
    return start[:2] in (b"\x08\x00", b"\x02\x00") and start[2:4] in (
        b"\x00\x00",
        b"\x01\x00",
        b"\x05\x00",
        b"\x08\x00",
        b"\x16\x00",
    )


def read_dicom_file(path: Path) -> DicomFile:
    """Raises InputError naming the file: cut, emptied, or otherwise damaged."""
    try:
        with _quiet(), open(path, "rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            found = _pixels(path, file, header)
    except InputError:
        raise
    except Exception as error:  # of many kinds: the parser checks little
        raise damaged(path, error) from error
    opened = DicomFile(path, header, *found)
    if opened.is_image or opened.is_segmentation:
        _check_pixels(opened)
    return opened


def text_of(data: Dataset, keyword: str) -> str:
    """The value of a tag as text, "" where it is missing or empty."""
    try:
        value = data.get(keyword, "")
    except Exception:  # a value that is none of its kind
        return ""
    return "" if value is None else str(value).strip()


def number_of(file: DicomFile, keyword: str, data: Dataset | None = None) -> float | None:
    """The value of a tag as a number, None where it is missing or empty.

    Raises InputError naming the file where it is no finite number.
    """
    values = numbers_of(file, keyword, 1, data)
    return None if values is None else float(values[0])


def numbers_of(
    file: DicomFile, keyword: str, count: int, data: Dataset | None = None
) -> np.ndarray | None:
    """The values of a tag, None where it is missing or empty.

    Raises InputError naming the file where they are not so many finite numbers.
    """
    data = file.header if data is None else data
    try:
        with _quiet():
            if keyword not in data:
                return None
            value = data[keyword].value
            if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
                return None
            values = np.array(value if count > 1 else [value], float).ravel()
    except Exception as error:  # "1,5" for a number, among others
        raise _bad_value(file, keyword, error) from error
    if len(values) != count or not np.isfinite(values).all():
        raise _bad_value(file, keyword, ", ".join(f"{value:g}" for value in values))
    return values


def encoding_of(header: Dataset) -> tuple[bool, bool]:
    """Whether types of values are implicit, and whether the order of bytes is little endian."""
    known = getattr(header, "original_encoding", None)  # since pydicom 3
    implicit, little = known or (header.is_implicit_VR, header.is_little_endian)
    return bool(implicit), little is not False


def _bad_value(file: DicomFile, keyword: str, value: object) -> InputError:
    return unusable(
        file.path,
        f"its {keyword} is not what it must be ({str(value)[:100]})",
        "Export the file again, or take it out of the folder.",
    )


def _pixels(
    path: Path, file: BinaryIO, header: Dataset
) -> tuple[int | None, int | None, str, bool]:
    """Where the pixel data's value begins, its length (None: encapsulated), its real type, and
    whether it is in words."""
    meta = getattr(header, "file_meta", None)
    if meta is not None and text_of(meta, "TransferSyntaxUID") in _DEFLATED:
        raise unusable(path, "its data set is deflated", "Export it without that.")
    at = file.tell()
    implicit, little = encoding_of(header)
    order = "little" if little else "big"
    start = file.read(12)
    if len(start) < 8:
        return None, None, "", False
    group = int.from_bytes(start[:2], order)  # type: ignore[arg-type]
    element = int.from_bytes(start[2:4], order)  # type: ignore[arg-type]
    tag = group << 16 | element
    if tag not in _PIXEL_TAGS:
        return None, None, "", False
    if implicit:
        length, begin = int.from_bytes(start[4:8], order), at + 8  # type: ignore[arg-type]
    else:
        length, begin = int.from_bytes(start[8:12], order), at + 12  # type: ignore[arg-type]
    in_words = implicit or start[4:6] == b"OW"
    return begin, None if length == _UNDEFINED else length, _PIXEL_TAGS[tag], in_words


def _check_pixels(file: DicomFile) -> None:
    """All pixels that the header announces are there."""
    if file.pixel_start is None:
        raise damaged(file.path, "it ends before its pixels, or has none")
    rows, columns = number_of(file, "Rows"), number_of(file, "Columns")
    if not rows or not columns:
        raise damaged(file.path, "it does not say how many rows and columns it has")
    size = file.path.stat().st_size
    samples = number_of(file, "SamplesPerPixel") or 1
    bits = number_of(file, "BitsAllocated") or (8 * np.dtype(file.float_type or "u2").itemsize)
    needed = int(np.ceil(rows * columns * samples * bits * file.frames / 8))
    if text_of(file.header, "PhotometricInterpretation") == "YBR_FULL_422":
        needed = needed * 2 // 3
    if file.pixel_bytes is not None:
        held = min(file.pixel_bytes, size - file.pixel_start)
        if held < needed:
            raise damaged(file.path, f"it holds {held} bytes of pixels, and {needed} belong to it")
        # Some writers fill up the last block; a whole row more is of a picture of another size.
        if held >= needed + max(needed // (int(rows) * file.frames), _BLOCK):
            raise damaged(
                file.path, f"it holds {held} bytes of pixels, and only {needed} belong to it"
            )
        return
    if _fragments(file) < file.frames:
        raise damaged(file.path, f"its compressed pixels are fewer than its {file.frames} frames")


def _fragments(file: DicomFile) -> int:
    """How many fragments of compressed pixels there are. Raises InputError where it is cut."""
    count = -1  # The first item is the table of offsets.
    size = file.path.stat().st_size
    with open(file.path, "rb") as stream:
        stream.seek(file.pixel_start or 0)
        while True:
            item = stream.read(8)
            if len(item) < 8:
                raise damaged(file.path, "its compressed pixels end too early")
            if item[:4] == b"\xfe\xff\xdd\xe0":
                return count
            if item[:4] != b"\xfe\xff\x00\xe0":
                raise damaged(file.path, "its compressed pixels are not in one piece")
            length = int.from_bytes(item[4:8], "little")
            if stream.tell() + length > size:
                raise damaged(file.path, "its compressed pixels end too early")
            stream.seek(length, 1)
            count += 1


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom warns about values that break the standard in ways that do not matter here."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def sequence(data: Any, keyword: str) -> list[Dataset]:
    """The items of a sequence, none where there is no such sequence."""
    try:
        items = data.get(keyword)
    except Exception:  # a sequence that cannot be parsed
        return []
    return list(items) if items else []
