"""Frames, without a process: what is written is read, and nothing else is."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import textwrap
import threading
from typing import Any

import numpy as np
import pytest

from OFLSAM2Core.worker.protocol import (
    DTYPES,
    MAX_HEADER_BYTES,
    Frame,
    ProtocolError,
    read_frame,
    write_frame,
)


class Trickle(io.RawIOBase):
    """A stream that gives and takes a few bytes at a time, as pipes may."""

    def __init__(self, rng: np.random.Generator, content: bytes = b"") -> None:
        self._rng = rng
        self._stream = io.BytesIO(content)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        return self._stream.readinto(view[: self._rng.integers(1, 9)])

    def write(self, data: Any) -> int:
        return self._stream.write(memoryview(data)[: self._rng.integers(1, 9)])

    def getvalue(self) -> bytes:
        return self._stream.getvalue()


def encoded(header: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> bytes:
    stream = io.BytesIO()
    write_frame(stream, header, arrays)
    return stream.getvalue()


def raw_frame(header: Any, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def random_frame(rng: np.random.Generator) -> Frame:
    header: dict[str, Any] = {
        "request": "".join(chr(c) for c in rng.integers(32, 0x2FFF, rng.integers(0, 9))),
        "id": int(rng.integers(-5, 2**40)),
        "nested": {"list": [None, True, 1.5, "ä\n\u0000"], "empty": {}},
    }
    arrays = {}
    for number in range(rng.integers(0, 4)):
        shape = tuple(rng.integers(0, 5, rng.integers(0, 5)))
        dtype = np.dtype(rng.choice(sorted(DTYPES)))
        if dtype.kind == "b":
            array = rng.integers(0, 2, shape).astype(bool)
        else:
            count = int(np.prod(shape))
            array = np.frombuffer(rng.bytes(count * dtype.itemsize), dtype).reshape(shape)
        arrays[f"array {number}"] = array
    return Frame(header, arrays)


def same(one: Frame, other: Frame) -> bool:
    return (
        one.header == other.header
        and list(one.arrays) == list(other.arrays)
        and all(
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
            for a, b in zip(one.arrays.values(), other.arrays.values(), strict=True)
        )
    )


def test_random_frames_are_read_as_written_however_the_stream_cuts_them() -> None:
    rng = np.random.default_rng(0)
    frames = [random_frame(rng) for _ in range(200)]
    written = Trickle(rng)
    for frame in frames:
        write_frame(written, frame.header, frame.arrays)
    stream = Trickle(rng, written.getvalue())
    for frame in frames:
        read = read_frame(stream)
        assert read is not None and same(read, frame)
    assert read_frame(stream) is None


def test_arrays_of_any_layout_and_byte_order_arrive_as_equal_values_in_c_order() -> None:
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    layouts = {
        "fortran": np.asfortranarray(array),
        "reversed": array[:, ::-1, ::2],
        "big-endian": array.astype(">i2"),
        "scalar": np.array(7.5, np.float32),
        "empty": np.zeros((0, 3), np.uint8),
        "read-only": np.broadcast_to(np.uint8(1), (3, 3)),
    }
    frame = read_frame(io.BytesIO(encoded({}, layouts)))
    assert frame is not None
    for name, sent in layouts.items():
        got = frame.arrays[name]
        np.testing.assert_array_equal(got, sent)
        assert got.flags.c_contiguous and got.flags.writeable and got.shape == sent.shape


def test_a_frame_cut_at_any_byte_is_an_error_and_never_a_frame() -> None:
    content = encoded({"request": "x", "id": 1}, {"a": np.arange(5, dtype=np.int32)})
    for length in range(1, len(content)):
        with pytest.raises(ProtocolError) as caught:
            read_frame(io.BytesIO(content[:length]))
        assert not caught.value.synchronised
    assert read_frame(io.BytesIO(b"")) is None


def test_garbage_gives_protocol_errors_only() -> None:
    rng = np.random.default_rng(1)
    valid = encoded({"request": "x", "id": 1}, {"a": np.arange(5, dtype=np.int32)})
    for _ in range(3000):
        damaged = bytearray(valid)
        for place in rng.integers(0, len(valid), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        content = bytes(damaged) if rng.random() < 0.7 else rng.bytes(int(rng.integers(1, 64)))
        try:
            frame = read_frame(io.BytesIO(content))
        except ProtocolError:
            continue
        assert frame is not None
        assert all(array.dtype.name in DTYPES for array in frame.arrays.values())


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"null", b"17", b"[" * 100_000, b"1" * 5000]
)
def test_a_header_that_is_not_a_json_object_is_skipped_and_the_next_frame_is_read(
    text: bytes,
) -> None:
    stream = io.BytesIO(raw_frame(text) + encoded({"id": 2}))
    with pytest.raises(ProtocolError) as caught:
        read_frame(stream)
    assert caught.value.synchronised
    frame = read_frame(stream)
    assert frame is not None and frame.header == {"id": 2}


@pytest.mark.parametrize(
    "listed",
    [
        {"a": 1},
        [1],
        [{"dtype": "uint8", "shape": [1]}],
        [{"name": 3, "dtype": "uint8", "shape": [1]}],
        [{"name": "a", "dtype": "uint8", "shape": [1]}] * 2,
        [{"name": "a", "dtype": "object", "shape": [1]}],
        [{"name": "a", "dtype": "O", "shape": [1]}],
        [{"name": "a", "dtype": "V8", "shape": [1]}],
        [{"name": "a", "dtype": ["uint8"], "shape": [1]}],
        [{"name": "a", "dtype": "uint8"}],
        [{"name": "a", "dtype": "uint8", "shape": 1}],
        [{"name": "a", "dtype": "uint8", "shape": [-1]}],
        [{"name": "a", "dtype": "uint8", "shape": [True]}],
        [{"name": "a", "dtype": "uint8", "shape": [1.0]}],
        [{"name": "a", "dtype": "uint8", "shape": [1] * 9}],
        [{"name": "a", "dtype": "float64", "shape": [2**40, 2**40]}],
        [{"name": "a", "dtype": "float64", "shape": [0, 2**62, 2**62]}],
        [{"name": "a", "dtype": "float64", "shape": [2**34]}],
        [{"name": n, "dtype": "float64", "shape": [2**30]} for n in "abc"],
    ],
)
def test_an_array_list_that_is_wrong_or_too_large_is_refused_before_memory_is_taken(
    listed: Any,
) -> None:
    stream = io.BytesIO(raw_frame({"id": 5, "arrays": listed}, b"\0" * 64))
    with pytest.raises(ProtocolError) as caught:
        read_frame(stream)
    assert not caught.value.synchronised
    assert caught.value.header["id"] == 5


def test_a_header_longer_than_the_limit_is_refused_unread() -> None:
    stream = io.BytesIO(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b" " * 100)
    with pytest.raises(ProtocolError):
        read_frame(stream)
    assert stream.tell() == 8


@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"x": object()}, {}),
        ({"x": "y" * (MAX_HEADER_BYTES + 1)}, {}),
        ({}, {"a": np.array([object()])}),
        ({}, {"a": np.array(["text"])}),
        ({}, {"a": np.zeros(3, complex)}),
        ({}, {"a": np.zeros((1,) * 9, np.uint8)}),
        ({}, {"a": np.broadcast_to(np.float64(0), (2**32,))}),
    ],
)
def test_what_cannot_be_sent_is_refused_before_a_byte_is_written(
    header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    stream = io.BytesIO()
    with pytest.raises(ProtocolError):
        write_frame(stream, header, arrays)
    assert stream.getvalue() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory the way Linux does")
def test_where_memory_is_short_a_frame_is_skipped_with_its_id_and_the_next_one_is_read() -> None:
    program = textwrap.dedent(
        """
        import io, psutil, resource
        from OFLSAM2Core.worker.protocol import ProtocolError, read_frame
        limit = psutil.Process().memory_info().vms + 2**26
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        stream = io.FileIO(0)
        try:
            read_frame(stream)
        except ProtocolError as error:
            print(error.synchronised, error.header, error.message)
        print(read_frame(stream).header)
        """
    )
    content = encoded({"id": 1}, {"a": np.zeros(2**28, np.uint8)}) + encoded({"id": 2})
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True)
    assert done.stdout.decode().splitlines() == [
        "True {'id': 1} There is not enough memory to receive 0.2 GiB of arrays.",
        "{'id': 2}",
    ], done.stderr


def test_frames_go_through_a_real_pipe() -> None:
    rng = np.random.default_rng(2)
    volume = rng.integers(-1000, 3000, (60, 128, 128)).astype(np.int16)
    read_end, write_end = (io.FileIO(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))
    writer = threading.Thread(target=write_frame, args=(write_end, {"id": 1}, {"image": volume}))
    writer.start()
    frame = read_frame(read_end)
    writer.join()
    write_end.close()
    assert frame is not None
    np.testing.assert_array_equal(frame.arrays["image"], volume)
    assert read_frame(read_end) is None
    read_end.close()
