"""Bytes that are no frames of the worker's protocol: refused in words, and never more is read than
they announce."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import pytest
from damage import changed_json, damaged
from hypothesis import given
from hypothesis import strategies as st
from limits import fixed

from OFLSAM2Core.worker.protocol import Frame, ProtocolError, read_frame, write_frame

pytestmark = pytest.mark.slow

EXAMPLES = 300

HEADER = {
    "request": "learn",
    "id": 1,
    "arrays": [
        {"name": "image0", "dtype": "int16", "shape": [2, 3, 4]},
        {"name": "labels0", "dtype": "uint8", "shape": [2, 3, 4]},
    ],
}


def whole() -> bytes:
    stream = io.BytesIO()
    header = {name: value for name, value in HEADER.items() if name != "arrays"}
    arrays = {"image0": np.ones((2, 3, 4), np.int16), "labels0": np.ones((2, 3, 4), np.uint8)}
    write_frame(stream, header, arrays)
    return stream.getvalue()


def read_or_refused(content: bytes) -> Frame | None:
    try:
        return read_frame(io.BytesIO(content))
    except ProtocolError as error:
        assert error.message
        return None


def test_a_whole_frame_is_read() -> None:
    frame = read_or_refused(whole())
    assert frame is not None and frame.arrays["image0"].shape == (2, 3, 4)


@fixed(EXAMPLES)
@given(damaged(whole(), header=400))
def test_a_damaged_frame_is_read_or_refused(content: bytes) -> None:
    read_or_refused(content)


@fixed(EXAMPLES)
@given(changed_json(HEADER), st.binary(max_size=100))
def test_a_header_of_any_content_is_read_or_refused(header: Any, rest: bytes) -> None:
    text = json.dumps(header).encode()
    frame = read_or_refused(struct.pack("<Q", len(text)) + text + rest)
    if frame is not None:
        assert sum(array.nbytes for array in frame.arrays.values()) <= len(rest)


@fixed(EXAMPLES)
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    read_or_refused(content)
