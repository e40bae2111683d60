"""Frames: what a program and its worker say to each other over two pipes.

A frame is 8 bytes (the header's length, unsigned, little-endian), a JSON header in UTF-8, and the
raw bytes of the arrays that `header["arrays"]` lists: `{"name", "dtype", "shape"}` each, C order,
little-endian, one after the other. Nothing in a frame can run: there is no pickle.

Where both programs share memory the bytes of large arrays go there instead (`exchange.py`); the
frame says so by `"in_memory": true` and is followed by no array bytes.

Reading is written once, as steps: a generator that yields the buffer to be filled next and is sent
the number of bytes that were put there (0 at the end of the stream). `read_frame` runs the steps
on a stream that may wait; a program that must not wait goes on with them when bytes have come.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import OFLSAM2Error

PROTOCOL_VERSION = 2

MAX_HEADER_BYTES = 16 * 2**20
MAX_ARRAY_BYTES = 16 * 2**30  # all arrays of one frame; ten support CTs of 512x512x1000 are 8 GiB
MAX_DIMENSIONS = 8
PIECE_BYTES = 2**20  # arrays are copied in pieces: 0.3 ms each, so that a panel goes on between

DTYPES = frozenset(
    [
        *("bool", "float16", "float32", "float64"),
        *("int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
    ]
)

Arrays = Mapping[str, npt.NDArray]
Listed = tuple[str, np.dtype, tuple[int, ...]]


class Reader(Protocol):
    """A raw (unbuffered) binary stream; `readinto` may fill less than it was given."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Writer(Protocol):
    """A raw (unbuffered) binary stream; `write` may take less than it was given."""

    def write(self, data: memoryview, /) -> int | None: ...


class ProtocolError(OFLSAM2Error):
    """A frame that is not one, or that does not say what it must.

    kind: "protocol", or "resource" for a frame that was skipped for want of memory.
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
        kind: str = "protocol",
    ) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.synchronised = synchronised
        self.header = header or {}


@dataclass(frozen=True, eq=False)
class Frame:
    """A header (without its "arrays" entry) and the arrays by name."""

    header: dict[str, Any]
    arrays: dict[str, npt.NDArray] = field(default_factory=dict)


T = TypeVar("T")
Steps = Generator[memoryview, int, T]
Admit = Callable[["Head"], None]
"""Called with a frame's head before memory is taken for its arrays. A ProtocolError that it raises
is raised again when the frame has been skipped."""


def write_frame(stream: Writer, header: Mapping[str, Any], arrays: Arrays | None = None) -> None:
    """Write one frame. Arrays of any layout and byte order are taken.

    Raises ProtocolError for what cannot be sent, before anything is written; OSError as `stream`.
    """
    arrays = arrays or {}
    write_encoded(stream, encode_header(header, arrays), arrays)


def encode_header(header: Mapping[str, Any], arrays: Arrays, in_memory: bool = False) -> bytes:
    """A frame's first bytes, to be followed by `arrays` unless they go through shared memory.

    Raises ProtocolError.
    """
    check_arrays(arrays)
    listed = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        for name, array in arrays.items()
    ]
    fields = {**header, "arrays": listed} if listed else {**header}
    if in_memory:
        fields["in_memory"] = True
    try:
        text = json.dumps(fields).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"This cannot be sent as a header: {error}.") from error
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError(f"A header of {len(text)} bytes is more than {MAX_HEADER_BYTES}.")
    return struct.pack("<Q", len(text)) + text


def write_encoded(stream: Writer, encoded_header: bytes, arrays: Arrays) -> None:
    """Write a frame whose header was encoded for these arrays. Raises OSError as `stream`."""
    write_all(stream, memoryview(encoded_header))
    for piece in pieces(arrays):
        write_all(stream, piece)


def pieces(arrays: Arrays) -> Iterator[memoryview]:
    """The bytes of the arrays as they are sent, about PIECE_BYTES at a time.

    An array of another layout or byte order is converted piece by piece.
    """
    for array in arrays.values():
        yield from _pieces_of(array)


def _pieces_of(array: npt.NDArray) -> Iterator[memoryview]:
    wire = array.dtype.newbyteorder("<")
    if array.size == 0:
        return
    if array.flags.c_contiguous and array.dtype == wire:
        content = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]
    elif array.nbytes <= PIECE_BYTES or array.ndim == 0:
        yield np.ascontiguousarray(array, dtype=wire).reshape(-1).view(np.uint8).data
    elif (part := array.nbytes // len(array)) > PIECE_BYTES:
        for one in array:
            yield from _pieces_of(one)
    else:
        count = PIECE_BYTES // part
        for start in range(0, len(array), count):
            yield from _pieces_of(array[start : start + count])


def read_frame(stream: Reader) -> Frame | None:
    """Read one frame; None where the stream ends between two frames.

    The arrays are new, writable, C order. Raises ProtocolError: `synchronised` says whether the
    next frame can be read.
    """
    return run_steps(frame_steps(), stream)


def run_steps(steps: Steps[T], stream: Reader) -> T:
    """Run steps of reading on a stream that waits for bytes."""
    try:
        buffer = next(steps)
        while True:
            buffer = steps.send(stream.readinto(buffer) or 0)
    except StopIteration as end:
        return end.value


def frame_steps(admit: Admit | None = None) -> Steps[Frame | None]:
    """The steps of reading one frame whose arrays follow it; None at the end of the stream."""
    head = yield from head_steps()
    if head is None:
        return None
    if head.in_memory:
        raise ProtocolError(
            "A frame's arrays are in memory that is not shared.", header=head.header
        )
    return (yield from array_steps(head, admit))


@dataclass(frozen=True, eq=False)
class Head:
    """A frame before its arrays. size: bytes of memory that it takes, about."""

    header: dict[str, Any]
    listed: list[Listed]
    in_memory: bool
    size: int

    @property
    def array_bytes(self) -> int:
        return _size(self.listed)

    def make_arrays(self, admit: Admit | None = None) -> dict[str, npt.NDArray]:
        """Arrays to read into. Raises ProtocolError where that cannot or must not be."""
        if admit is not None:
            admit(self)
        try:
            return {name: np.empty(shape, dtype) for name, dtype, shape in self.listed}
        except MemoryError as error:
            raise ProtocolError(
                f"There is not enough memory to receive {self.array_bytes / 2**30:.1f} GiB "
                "of arrays.",
                "Close other programs, or crop the volume.",
                header=self.header,
                kind="resource",
            ) from error


def head_steps() -> Steps[Head | None]:
    """The steps of reading a frame up to its arrays; None where the stream ends before it."""
    prefix = bytearray(8)
    if not (yield from _fill(memoryview(prefix), "a frame's length", may_end=True)):
        return None
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise ProtocolError(
            f"A frame begins with a header of {length} bytes, more than {MAX_HEADER_BYTES}.",
            f"The stream is not made of frames; it begins with {bytes(prefix)!r}.",
        )
    text = bytearray(length)
    yield from _fill(memoryview(text), "a header")
    header = _parse_header(text)
    listed = _array_list(header)
    in_memory = header.pop("in_memory", False) is True
    # JSON takes some ten times its length once it is read.
    return Head(header, listed, in_memory, 10 * length + _size(listed))


def array_steps(head: Head, admit: Admit | None = None) -> Steps[Frame]:
    """The steps of reading the arrays that follow a header."""
    try:
        arrays = head.make_arrays(admit)
    except ProtocolError as error:
        yield from _skip(head.array_bytes)
        error.synchronised = True
        raise
    for name, array in arrays.items():
        yield from _fill(bytes_of(array), f"array '{name}'")
    return Frame(head.header, arrays)


def bytes_of(array: npt.NDArray) -> memoryview:
    """The memory of an array in C order."""
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


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


def write_all(stream: Writer, data: memoryview) -> None:
    """Write to a stream that waits for room."""
    while data:
        data = data[stream.write(data) or 0 :]


def _fill(data: memoryview, what: str, *, may_end: bool = False) -> Steps[bool]:
    """False where the stream is at its end and may be."""
    done = 0
    while done < len(data):
        count = yield data[done:]
        if not count:
            if may_end and not done:
                return False
            raise ProtocolError(f"The stream ended within {what}, {done} of {len(data)} bytes in.")
        done += count
    return True


def _skip(length: int) -> Steps[None]:
    scratch = memoryview(bytearray(PIECE_BYTES))
    while length:
        part = scratch[: min(length, len(scratch))]
        yield from _fill(part, "arrays")
        length -= len(part)
