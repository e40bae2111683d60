"""A MetaImage header (`.mha`, `.mhd`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from OFLSAM2Core.io.image_header import (
    LPS_TO_RAS,
    ImageHeader,
    check_affine,
    damaged,
    unusable,
)
from OFLSAM2Core.runtime.counted import counted

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip

_MOST_LINE = 1 << 20
_ROUNDED = 1e-3  # of the lengths of directions


def is_meta_image(start: bytes) -> bool:
    """Whether a file that starts with these bytes has a MetaImage header."""
    first = start.split(b"\n", 1)[0].split(b"=")[0].strip()
    return first in (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType", b"ID", b"Name")


def read_meta_image_header(path: Path) -> ImageHeader:
    """Raises InputError naming the file: damaged, or without a place that can be used."""
    fields, listed, end = _fields(path)
    try:
        count = int(fields["NDims"])
        shape = tuple(int(size) for size in fields["DimSize"].split())
        if not 2 <= count <= 4 or len(shape) != count or min(shape) < 1:
            raise ValueError(
                f"its header says {counted(count, 'dimension')} of {fields['DimSize']} voxels"
            )
        dtype = np.dtype(_TYPES[fields["ElementType"].upper().removesuffix("_ARRAY")])
        order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
        if _is_true(order):
            dtype = dtype.newbyteorder(">")
        packed, binary = (
            _is_true(fields.get("CompressedData", "False")),
            _is_true(fields.get("BinaryData", "True")),
        )
        components = int(fields.get("ElementNumberOfChannels", 1))
        start = int(fields.get("HeaderSize", 0))
        affine, notes = _affine(fields, count)
        slope = float(fields.get("ElementToIntensityFunctionSlope", 1))
        intercept = float(fields.get("ElementToIntensityFunctionOffset", 0))
        if components < 1:
            raise ValueError(f"its header says {components} values in every voxel")
    except KeyError as error:
        raise unusable(
            path, f"its header has no or an unknown {error}", "Export it again, in another way."
        ) from error
    except ValueError as error:
        raise damaged(path, error) from error
    notes += check_affine(path, affine)
    local = fields["ElementDataFile"].upper() in ("LOCAL", "LOCAL_FILE")
    return ImageHeader(
        path=path,
        shape=shape,
        affine=affine,
        dtype=dtype,
        files=(path,) if local else _files(path, fields["ElementDataFile"], listed, shape),
        start=end if local else start,
        packing="zlib" if packed else "" if binary else "text",
        components=components,
        slope=slope if np.isfinite(slope) and slope else 1.0,
        intercept=intercept if np.isfinite(intercept) else 0.0,
        notes=tuple(notes),
        fields=fields,
    )


def _fields(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Fields, the lines after the last one, and the byte after it."""
    fields: dict[str, str] = {}
    try:
        with open(path, "rb") as file:
            while line := file.readline(_MOST_LINE):
                name, mark, value = line.decode("utf-8", "replace").partition("=")
                if not mark and line.strip():
                    break
                fields[name.strip()] = value.strip()
                if name.strip() == "ElementDataFile":
                    end = file.tell()
                    listed = []
                    if value.strip().upper().startswith("LIST"):
                        lines = file.read(_MOST_LINE).decode("utf-8", "replace").splitlines()
                        listed = [text.strip() for text in lines if text.strip()]
                    return fields, listed, end
    except OSError as error:
        raise damaged(path, error.strerror) from error
    raise damaged(path, "its header has no end")


def _affine(fields: dict[str, str], count: int) -> tuple[np.ndarray, list[str]]:
    """To RAS; MetaImage is in LPS, whatever AnatomicalOrientation says."""
    notes = []
    space = min(count, 3)
    directions = np.eye(count)
    matrix = _first(fields, "TransformMatrix", "Rotation", "Orientation")
    if matrix is not None:
        directions = np.array([float(number) for number in matrix.split()]).reshape(count, count)
        norms = np.linalg.norm(directions, axis=1)
        if norms.all() and np.abs(norms - 1).max() > _ROUNDED:
            shown = ", ".join(f"{norm:.4g}" for norm in norms)
            notes.append(
                f"has directions of the lengths {shown}: its spacing is that times larger."
            )
    else:
        notes.append("does not say how it is oriented: left and right are a guess.")
    spacing = _first(fields, "ElementSpacing", "ElementSize")
    lengths = np.ones(count)
    if spacing is not None:
        lengths = np.array([float(number) for number in spacing.split()])[:count]
    else:
        notes.append("does not say the spacing of its voxels: 1 mm is taken.")
    offset = _first(fields, "Offset", "Position", "Origin")
    origin = np.zeros(count)
    if offset is not None:
        origin = np.array([float(number) for number in offset.split()])[:count]
    else:
        notes.append("does not say where it lies: its first voxel is taken as the origin.")
    if len(lengths) != count or len(origin) != count:
        raise ValueError("its spacing or origin has another number of values than axes")
    if (lengths < 0).any():
        raise ValueError(f"its spacing is negative ({spacing}), which no two programs read alike")
    affine = np.eye(4)
    affine[:space, :space] = (directions * lengths[:, None])[:space, :space].T
    affine[:space, 3] = origin[:space]
    return LPS_TO_RAS @ affine, notes


def _first(fields: dict[str, str], *names: str) -> str | None:
    return next((fields[name] for name in names if name in fields), None)


def _is_true(text: str) -> bool:
    return text[:1].lower() in ("t", "1", "y")


def _files(
    path: Path, data_file: str, listed: list[str], shape: tuple[int, ...]
) -> tuple[Path, ...]:
    if data_file.upper().startswith("LIST"):
        names = listed
        if len(names) != shape[-1] and data_file.split()[-1:] not in (["2D"], ["2"], ["LIST"]):
            raise damaged(path, f"it lists {counted(len(names), 'file')}")
    elif "%" in data_file:
        pattern, *numbers = data_file.rsplit(maxsplit=3)
        try:
            first, last, step = (int(number) for number in [*numbers, "1", "1"][:3])
            names = [pattern % number for number in range(first, last + 1, step)]
        except (TypeError, ValueError) as error:
            raise damaged(path, f"'{data_file}' names no files") from error
    else:
        names = [data_file]
    if not names:
        raise damaged(path, "it lists no files of voxels")
    files = tuple(path.parent / name for name in names)
    for file in files:
        if not file.is_file():
            raise unusable(
                path,
                f"its voxels belong into '{file.name}', which is not there",
                "Put the header and its files of voxels into one folder.",
            )
    return files
