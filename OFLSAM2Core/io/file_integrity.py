"""Is an image file whole? The readers do not say.

ITK returns a truncated NIfTI file as if it were whole (the rest of the voxels are zero), puts
zero for NaN in one that is, and returns a damaged MetaImage or NRRD file with whatever could be
unpacked. So the voxels are unpacked and counted once before they are read.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from OFLSAM2Core.data.validation import voxels_not_finite

_CHUNK = 1 << 20


def check_not_truncated(path: Path) -> None:
    """Raises ValueError saying what is wrong, OSError where the file cannot be read at all,
    InputError where a NIfTI file has voxels that are not finite.

    Checked are NIfTI (length, and checksum where packed), and packed NRRD and MetaImage files
    (length and checksum); all else is left to the reader.
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            _check_nifti(path)
        elif name.endswith((".nrrd", ".nhdr")):
            _check_nrrd(path)
        elif name.endswith((".mha", ".mhd")):
            _check_meta_image(path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"the packed data are damaged ({error})") from error


def _check_nifti(path: Path) -> None:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    stream = gzip.open(path, "rb") if packed else open(path, "rb")  # noqa: SIM115
    with stream:
        header = stream.read(540)
        start, needed, voxel_type = _nifti_voxels(header)
        stream.seek(start)
        found, not_finite = 0, 0
        while chunk := stream.read(_CHUNK):
            if voxel_type is not None:
                count = min(len(chunk), needed - found) // voxel_type.itemsize
                values = np.frombuffer(chunk, voxel_type, max(count, 0))
                not_finite += int(values.size - np.isfinite(values).sum())
            found += len(chunk)
    if found < needed:
        raise ValueError(f"it holds {found} bytes of voxels, and its header says {needed}")
    if not_finite:
        raise voxels_not_finite(path, not_finite)


def _nifti_voxels(header: bytes) -> tuple[int, int, np.dtype | None]:
    """Of a NIfTI-1 or NIfTI-2 header: where the voxels start, how many bytes they have, and
    their type where it is a real number."""
    for order in "<>":
        size = struct.unpack(order + "i", header[:4].ljust(4, b"\0"))[0]
        if size == 348 and len(header) >= 348:
            dimensions = struct.unpack_from(order + "8h", header, 40)
            code, bits = struct.unpack_from(order + "2h", header, 70)
            start = int(struct.unpack_from(order + "f", header, 108)[0])
        elif size == 540 and len(header) >= 540:
            code, bits = struct.unpack_from(order + "2h", header, 12)
            dimensions = struct.unpack_from(order + "8q", header, 16)
            start = struct.unpack_from(order + "q", header, 168)[0]
        else:
            continue
        voxels = math.prod(max(length, 1) for length in dimensions[1 : dimensions[0] + 1])
        real = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}
        return max(start, size), voxels * bits // 8, real.get(code)
    raise ValueError("it does not start with a NIfTI header")


def _check_nrrd(path: Path) -> None:
    with open(path, "rb") as file:
        fields = {}
        for line in iter(file.readline, b""):
            if not line.strip():
                break
            key, _, value = line.decode("latin-1").partition(":")
            fields[key.strip().lower()] = value.strip().lower()
        if fields.get("encoding") in ("gzip", "gz") and "data file" not in fields:
            _unpack(file, zlib.MAX_WBITS | 16)


def _check_meta_image(path: Path) -> None:
    with open(path, "rb") as file:
        fields = {}
        for line in iter(file.readline, b""):
            key, _, value = line.decode("latin-1").partition("=")
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile":
                break
        if fields.get("CompressedData", "").lower() != "true":
            return
        data = fields.get("ElementDataFile", "")
        if data == "LOCAL":
            _unpack(file, zlib.MAX_WBITS | 32)
            return
    with open(path.parent / data, "rb") as file:
        _unpack(file, zlib.MAX_WBITS | 32)


def _unpack(file: BinaryIO, window: int) -> None:
    """Unpack the rest of a file. zlib compares the checksum at the end of the data."""
    unpacker = zlib.decompressobj(window)
    while not unpacker.eof:
        chunk = file.read(_CHUNK)
        if not chunk:
            raise EOFError("they end too early")
        unpacker.decompress(chunk)
