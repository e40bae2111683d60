"""A NRRD header, as Slicer and teem write it, with the liberties that other writers take."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.io.image_header import (
    LPS_TO_RAS,
    ImageHeader,
    check_affine,
    damaged,
    unusable,
)
from OFLSAM2Core.runtime.counted import counted

_TYPES = {
    "int8": "i1", "int8_t": "i1", "signed char": "i1",
    "uint8": "u1", "uint8_t": "u1", "uchar": "u1", "unsigned char": "u1",
    "int16": "i2", "int16_t": "i2", "short": "i2", "short int": "i2", "signed short": "i2",
    "signed short int": "i2",
    "uint16": "u2", "uint16_t": "u2", "ushort": "u2", "unsigned short": "u2",
    "unsigned short int": "u2",
    "int32": "i4", "int32_t": "i4", "int": "i4", "signed int": "i4",
    "uint32": "u4", "uint32_t": "u4", "uint": "u4", "unsigned int": "u4",
    "int64": "i8", "int64_t": "i8", "longlong": "i8", "long long": "i8", "long long int": "i8",
    "signed long long": "i8", "signed long long int": "i8",
    "uint64": "u8", "uint64_t": "u8", "ulonglong": "u8", "unsigned long long": "u8",
    "unsigned long long int": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip

_PACKINGS = {
    "raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
    "text": "text", "txt": "text", "ascii": "text", "hex": "hex",
}  # fmt: skip

# What stands along an axis that is no direction in space.
_VALUE_KINDS = ("list", "vector", "point", "scalar", "none", "rgb-color", "rgba-color", "stub")

_MOST_HEADER = 1 << 24

_WORDS = {"left": -1, "right": 1, "posterior": -1, "anterior": 1, "inferior": -1, "superior": 1}
_LETTERS = {"l": "left", "r": "right", "p": "posterior", "a": "anterior", "i": "inferior",
            "s": "superior"}  # fmt: skip


def read_nrrd_header(path: Path) -> ImageHeader:
    """The header of an attached (`.nrrd`) or detached (`.nhdr`) file.

    Raises InputError naming the file: damaged, or without a place that can be used.
    """
    fields, pairs, lines, start = read_fields(path)
    try:
        sizes = tuple(int(size) for size in fields["sizes"].split())
        dtype = np.dtype(_TYPES[fields["type"].lower()])
        encoding = fields["encoding"].lower()
        packing = _PACKINGS[encoding]
        if not sizes or min(sizes) < 1 or len(sizes) != int(fields.get("dimension", len(sizes))):
            raise ValueError(f"its header says {fields['sizes']} voxels")
        if fields.get("endian", "little").lower() == "big":
            dtype = dtype.newbyteorder(">")
        space_axes, vectors = _axes(fields, len(sizes))
        byte_skip, line_skip = (int(fields.get(f"{what} skip", 0)) for what in ("byte", "line"))
    except KeyError as error:
        raise unusable(
            path, f"its header has no or an unknown {error}", "Export it again, in another way."
        ) from error
    except ValueError as error:
        raise damaged(path, error) from error
    notes: list[str] = []
    if "endian" not in fields and dtype.itemsize > 1 and packing not in ("text", "hex"):
        notes.append("does not say the order of its bytes: little-endian is taken.")
    affine = _affine(path, fields, space_axes, vectors, notes)
    notes += check_affine(path, affine)
    others = [axis for axis in range(len(sizes)) if axis not in space_axes]
    values = [axis for axis in others if sizes[axis] > 1]
    if len(values) > 1 or (values and 0 < values[0] < len(sizes) - 1):
        raise unusable(path, f"it has {len(sizes)} axes ({fields['sizes']})", "Give one 3D volume.")
    files = _files(path, fields.get("data file", fields.get("datafile", "")), lines)
    detached = files != (path,)
    if line_skip:
        start = _after_lines(files[0], 0 if detached else start, line_skip)
    elif detached:
        start = 0
    is_raw = packing == ""
    return ImageHeader(
        path=path,
        shape=tuple(sizes[axis] for axis in space_axes),
        affine=affine,
        dtype=dtype,
        files=files,
        # -1: whatever comes before, the voxels are the last bytes.
        start=-1 if byte_skip == -1 and is_raw else start,
        packing=packing,
        skip=max(byte_skip, 0),
        components=sizes[values[0]] if values else 1,
        component_axis=0 if values and values[0] == 0 else len(space_axes),
        notes=tuple(notes),
        fields=pairs,
    )


def read_fields(path: Path) -> tuple[dict[str, str], dict[str, str], list[str], int]:
    """Fields ("sizes"), key/value pairs ("Segment0_ID"), lines of a list of files, and the byte
    after the header. Raises InputError naming the file."""
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    listed: list[str] = []
    try:
        with open(path, "rb") as file:
            if not file.readline().startswith(b"NRRD"):
                raise damaged(path, "it does not start with a NRRD header")
            while line := file.readline(_MOST_HEADER):
                if not line.endswith(b"\n") and "data file" not in fields:
                    raise damaged(path, "its header ends too early")
                text = line.decode("utf-8", "replace").strip("\r\n")
                if not text.strip():
                    return fields, pairs, listed, file.tell()
                if text.startswith("#"):
                    continue
                if fields.get("data file", "").startswith("LIST"):
                    listed.append(text.strip())
                    continue
                name, mark, value = _split(text)
                if mark == ":=":
                    pairs[name] = value
                elif mark:
                    fields[name.lower()] = value.strip()
                    if name.lower() == "datafile":
                        fields["data file"] = value.strip()
            if "data file" not in fields:
                raise damaged(path, "its header has no end")
            return fields, pairs, listed, file.tell()
    except OSError as error:
        raise damaged(path, error.strerror) from error


def _split(text: str) -> tuple[str, str, str]:
    """ "name: value" or "name:=value"."""
    found = re.match(r"([^:]*)(:=|:)(.*)", text)
    if not found:
        return text, "", ""
    return found[1].strip(), found[2], found[3].strip()


def _axes(fields: dict[str, str], count: int) -> tuple[list[int], list[npt.NDArray[np.float64]]]:
    """Which axes lie in space, and their directions; without directions, one that is three long
    in kind."""
    kinds = fields.get("kinds", "").lower().split()
    if "space directions" in fields:
        texts = re.findall(r"none|\([^)]*\)", fields["space directions"].lower())
        if len(texts) != count:
            raise ValueError(f"it has {counted(len(texts), 'space direction')} for {count} axes")
        found = [(axis, text) for axis, text in enumerate(texts) if text != "none"]
        return [axis for axis, _ in found], [_vector(text) for _, text in found]
    space = list(range(count))
    if len(kinds) == count:
        space = [axis for axis in space if kinds[axis] not in _VALUE_KINDS] or space
        space = [axis for axis in space if not re.match(r"\d|.*vector|.*color", kinds[axis])]
    spacings = [float(text) for text in fields.get("spacings", "").split()] or [np.nan] * count
    if len(spacings) != count:
        raise ValueError(f"it has {counted(len(spacings), 'spacing')} for {count} axes")
    if any(spacing < 0 for spacing in spacings):
        raise ValueError(
            f"its spacing is negative ({fields['spacings']}), which no two programs read alike"
        )
    return space, [
        np.eye(max(3, len(space)))[place] * spacings[axis] for place, axis in enumerate(space)
    ]


def _vector(text: str) -> npt.NDArray[np.float64]:
    return np.array([float(number) for number in text.strip("()").split(",")])


def _affine(
    path: Path,
    fields: dict[str, str],
    axes: list[int],
    vectors: list[npt.NDArray[np.float64]],
    notes: list[str],
) -> npt.NDArray[np.float64]:
    """To RAS millimetres."""
    affine = np.eye(4)
    try:
        for place, vector in enumerate(vectors[:3]):
            affine[:3, place] = vector[:3] if len(vector) >= 3 else [*vector, 0, 0][:3]
        if "space origin" in fields:
            affine[:3, 3] = np.array([*_vector(fields["space origin"].strip()), 0, 0])[:3]
        elif "space directions" in fields:
            notes.append("does not say where it lies: its first voxel is taken as the origin.")
    except ValueError as error:
        raise damaged(path, error) from error
    if len(axes) == 2 and np.linalg.norm(affine[:3, 2]) == 1:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        length = np.linalg.norm(normal)
        affine[:3, 2] = normal / length if length > 0 else affine[:3, 2]
    if "space directions" not in fields:
        spacing = np.array([vector.sum() for vector in vectors[:3]])
        missing = np.isnan(spacing)
        for axis in np.flatnonzero(missing).tolist():
            affine[:3, axis] = np.eye(3)[axis]
        notes.append(
            "does not say "
            + ("the spacing of its voxels (1 mm is taken) nor " if missing.any() else "")
            + "how it is oriented: left and right are a guess."
        )
        if "space" not in fields:
            return LPS_TO_RAS @ affine
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    factors = {"um": 0.001, "µm": 0.001, "microns": 0.001, "micrometer": 0.001, "cm": 10.0,
               "m": 1000.0, "nm": 1e-6}  # fmt: skip
    if units and units[0].strip().lower() in factors:
        affine[:3] *= factors[units[0].strip().lower()]
        notes.append(f"is in {units[0]}; its spacing was changed to mm.")
    signs = _signs(fields.get("space", ""))
    if signs is None:
        space = f"is in the space '{fields['space']}'" if "space" in fields else "is in no space"
        notes.append(f"{space}, so left and right are a guess.")
        return LPS_TO_RAS @ affine
    return np.diag([*signs, 1.0]) @ affine


def _signs(space: str) -> tuple[float, float, float] | None:
    """From the file's axes to RAS; None where the space does not say."""
    text = space.lower().replace("-time", "")
    words = [_LETTERS.get(letter, "") for letter in text] if len(text) in (3, 4) else None
    words = text.split("-") if words is None else words[:3]
    if len(words) != 3 or any(word not in _WORDS for word in words):
        return None
    pairs = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))
    if any(word not in pair for word, pair in zip(words, pairs, strict=True)):
        return None
    return tuple(float(_WORDS[word]) for word in words)  # type: ignore[return-value]


def _files(path: Path, data_file: str, listed: list[str]) -> tuple[Path, ...]:
    """The files that hold the voxels; the header's own where none is named."""
    if not data_file:
        return (path,)
    if data_file.upper().startswith("LIST"):
        names = [name for name in listed if name]
    elif re.search(r"%\d*d", data_file):
        pattern, *rest = data_file.rsplit(maxsplit=3)
        first, last, step = (int(number) for number in [*rest, "1", "1"][:3])
        names = [pattern % number for number in range(first, last + 1, step)]
    else:
        names = [data_file]
    files = tuple(path.parent / name for name in names)
    if not files:
        raise damaged(path, "it lists no files of voxels")
    for file in files:
        if not file.is_file():
            raise unusable(
                path,
                f"its voxels belong into '{file.name}', which is not there",
                "Put the header and its files of voxels into one folder.",
            )
    return files


def _after_lines(path: Path, start: int, lines: int) -> int:
    with open(path, "rb") as file:
        file.seek(start)
        for _ in range(lines):
            file.readline()
        return file.tell()
