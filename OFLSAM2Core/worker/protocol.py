"""Frames: what a program and its worker say to each other over two pipes.

A frame is 8 bytes (the header's length, unsigned, little-endian), a JSON header in UTF-8, and the
raw bytes of the arrays that `header["arrays"]` lists: `{"name", "dtype", "shape"}` each, C order,
little-endian, one after the other. Nothing in a frame can run: there is no pickle.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import OFLSAM2Error

PROTOCOL_VERSION = 1

MAX_HEADER_BYTES = 16 * 2**20
MAX_ARRAY_BYTES = 16 * 2**30  # all arrays of one frame; ten support CTs of 512x512x1000 are 8 GiB
MAX_DIMENSIONS = 8

DTYPES = frozenset(
    [
        *("bool", "float16", "float32", "float64"),
        *("int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
    ]
)

Arrays = Mapping[str, npt.NDArray]


class Reader(Protocol):
    """A raw (unbuffered) binary stream; `readinto` may fill less than it was given."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Writer(Protocol):
    """A raw (unbuffered) binary stream; `write` may take less than it was given."""

    def write(self, data: memoryview, /) -> int | None: ...


class ProtocolError(OFLSAM2Error):
    """A frame that is not one, or that does not say what it must.

    synchronised: whether the stream stands at the start of the next frame, so that reading can
        go on.
    header: as far as it was understood, for the answer.
    """

    kind = "protocol"

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        synchronised: bool = False,
        header: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.synchronised = synchronised
        self.header = header or {}


@dataclass(frozen=True, eq=False)
class Frame:
    """A header (without its "arrays" entry) and the arrays by name."""

    header: dict[str, Any]
    arrays: dict[str, npt.NDArray] = field(default_factory=dict)


def write_frame(stream: Writer, header: Mapping[str, Any], arrays: Arrays | None = None) -> None:
    """Write one frame. Arrays of any layout and byte order are taken.

    Raises ProtocolError for what cannot be sent, before anything is written; OSError as `stream`.
    """
    arrays = arrays or {}
    write_encoded(stream, encode_header(header, arrays), arrays)


def encode_header(header: Mapping[str, Any], arrays: Arrays) -> bytes:
    """A frame's first bytes, to be followed by `arrays`. Raises ProtocolError."""
    check_arrays(arrays)
    listed = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        for name, array in arrays.items()
    ]
    try:
        text = json.dumps({**header, "arrays": listed} if listed else {**header}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"This cannot be sent as a header: {error}.") from error
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError(f"A header of {len(text)} bytes is more than {MAX_HEADER_BYTES}.")
    return struct.pack("<Q", len(text)) + text


def write_encoded(stream: Writer, encoded_header: bytes, arrays: Arrays) -> None:
    """Write a frame whose header was encoded for these arrays. Raises OSError as `stream`."""
    _write(stream, memoryview(encoded_header))
    for array in arrays.values():
        if array.size:
            wire = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            _write(stream, wire.reshape(-1).view(np.uint8).data)


def read_frame(stream: Reader) -> Frame | None:
    """Read one frame; None where the stream ends between two frames.

    The arrays are new, writable, C order. Raises ProtocolError: `synchronised` says whether the
    next frame can be read.
    """
    prefix = _read(stream, 8, "a frame's length", may_end=True)
    if prefix is None:
        return None
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise ProtocolError(
            f"A frame begins with a header of {length} bytes, more than {MAX_HEADER_BYTES}.",
            f"The stream is not made of frames; it begins with {bytes(prefix)!r}.",
        )
    text = _read(stream, length, "a header")
    header = _parse_header(text or b"")
    shapes = _array_list(header)
    try:
        arrays = {name: np.empty(shape, dtype) for name, dtype, shape in shapes}
    except MemoryError as error:
        size = _size(shapes)
        _skip(stream, size)
        raise ProtocolError(
            f"There is not enough memory to receive {size / 2**30:.1f} GiB of arrays.",
            "Close other programs, or crop the volume.",
            synchronised=True,
            header=header,
        ) from error
    for name, array in arrays.items():
        if array.size:
            _fill(stream, array.reshape(-1).view(np.uint8).data, f"array '{name}'")
    return Frame(header, arrays)


def check_arrays(arrays: Arrays) -> None:
    """Raises ProtocolError for arrays that a frame cannot carry."""
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise ProtocolError(f"Array '{name}' is of type {array.dtype}, which is not sent.")
        if array.ndim > MAX_DIMENSIONS:
            raise ProtocolError(f"Array '{name}' has {array.ndim} dimensions.")
    size = sum(array.nbytes for array in arrays.values())
    if size > MAX_ARRAY_BYTES:
        raise ProtocolError(
            f"{size / 2**30:.1f} GiB of arrays is more than one frame carries "
            f"({MAX_ARRAY_BYTES / 2**30:.0f} GiB).",
            "Crop the volumes, or use fewer of them.",
        )


Listed = tuple[str, np.dtype, tuple[int, ...]]


def _parse_header(text: bytes | bytearray) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ProtocolError(f"A header is not JSON: {error}.", synchronised=True) from error
    if not isinstance(header, dict):
        raise ProtocolError("A header is not a JSON object.", synchronised=True)
    return header


def _array_list(header: dict[str, Any]) -> list[Listed]:
    """Takes "arrays" out of the header. Where it is wrong, the length of what follows is unknown,
    so the stream is lost."""
    listed = header.pop("arrays", [])
    found: dict[str, Listed] = {}
    if not isinstance(listed, list):
        raise ProtocolError("A header's 'arrays' is not a list.", header=header)
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name in found:
            raise ProtocolError("An array has no name, or one used twice.", header=header)
        dtype = entry.get("dtype")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ProtocolError(
                f"Array '{name}' is of type {dtype!r:.100}.",
                f"Known types: {', '.join(sorted(DTYPES))}.",
                header=header,
            )
        shape = _shape(entry.get("shape"), name, header)
        found[name] = (name, np.dtype(dtype).newbyteorder("<"), shape)
    listed_arrays = list(found.values())
    if _size(listed_arrays) > MAX_ARRAY_BYTES:
        raise ProtocolError(
            f"A frame says it carries {_size(listed_arrays)} bytes, more than {MAX_ARRAY_BYTES}.",
            header=header,
        )
    return listed_arrays


def _shape(shape: Any, name: str, header: dict[str, Any]) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(length) is int and length >= 0 for length in shape)
        or math.prod(max(length, 1) for length in shape) > MAX_ARRAY_BYTES
    ):
        raise ProtocolError(f"Array '{name}' has the shape {shape!r:.100}.", header=header)
    return tuple(shape)


def _size(listed: list[Listed]) -> int:
    return sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in listed)


def _write(stream: Writer, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) or 0 :]


def _read(stream: Reader, length: int, what: str, *, may_end: bool = False) -> bytearray | None:
    data = bytearray(length)
    if not _fill(stream, memoryview(data), what, may_end=may_end):
        return None
    return data


def _fill(stream: Reader, data: memoryview, what: str, *, may_end: bool = False) -> bool:
    """False where the stream is at its end and may be."""
    done = 0
    while done < len(data):
        count = stream.readinto(data[done:])
        if not count:
            if may_end and not done:
                return False
            raise ProtocolError(f"The stream ended within {what}, {done} of {len(data)} bytes in.")
        done += count
    return True


def _skip(stream: Reader, length: int) -> None:
    scratch = memoryview(bytearray(2**20))
    while length:
        part = scratch[: min(length, len(scratch))]
        _fill(stream, part, "arrays")
        length -= len(part)
