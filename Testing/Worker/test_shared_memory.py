"""Shared memory and its rings, without a worker."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from OFLSAM2Core.worker.exchange import NOTICE, Incoming, notice
from OFLSAM2Core.worker.protocol import DTYPES, ProtocolError, encode_header, pieces
from OFLSAM2Core.worker.shared_memory import RING_BYTES, RingReader, RingWriter, SharedMemory

posix = pytest.mark.skipif(os.name != "posix", reason="descriptors are inherited on POSIX only")


def read_all(content: bytes, ring: RingReader | None) -> list[Any]:
    """What comes of these bytes of the pipe: frames, in order."""
    incoming = Incoming(lambda header: None, lambda count: None)
    incoming.ring = ring
    frames = []
    place = 0
    while True:
        steps = incoming.steps()
        try:
            buffer = next(steps)
            while True:
                count = min(len(buffer), len(content) - place)
                buffer[:count] = content[place : place + count]
                place += count
                buffer = steps.send(count)
        except StopIteration as stop:
            if stop.value is None:
                return frames
            frames.append(stop.value)


def test_bytes_leave_a_ring_as_they_went_in_however_they_are_cut() -> None:
    rng = np.random.default_rng(0)
    memory = np.zeros(97, np.uint8)
    writer, reader = RingWriter(memory), RingReader(memory)
    sent = rng.bytes(20_000)
    got = bytearray()
    waiting: list[int] = []
    place = 0
    while len(got) < len(sent):
        piece = sent[place : place + int(rng.integers(1, 120))]
        count = writer.write(memoryview(piece))
        place += count
        waiting += [count] if count else []
        if waiting and (count == 0 or rng.random() < 0.5):
            into = bytearray(waiting.pop(0))
            reader.read(memoryview(into))
            got += into
            writer.taken(len(into))
    assert bytes(got) == sent


def test_a_full_ring_takes_nothing_until_something_is_taken() -> None:
    writer = RingWriter(np.zeros(10, np.uint8))
    assert writer.write(memoryview(bytes(25))) == 10
    assert writer.write(memoryview(b"x")) == 0
    for wrong in (0, -1, 11):
        with pytest.raises(ProtocolError):
            writer.taken(wrong)
    writer.taken(4)
    assert writer.write(memoryview(bytes(25))) == 4


def test_arrays_of_any_layout_are_sent_in_small_pieces() -> None:
    array = np.arange(40 * 300 * 200, dtype=np.int32).reshape(40, 300, 200)
    for one in (array, array[::-1, :, ::2], array.T, array.astype(">i4"), array.reshape(1, -1)):
        parts = [bytes(piece) for piece in pieces({"a": one})]
        assert b"".join(parts) == np.ascontiguousarray(one, "<i4").tobytes()
        assert max(map(len, parts)) <= 2**21


@posix
@pytest.mark.parametrize("has_memfd", [True, False])
def test_memory_is_seen_from_both_ends_is_the_owners_only_and_has_no_name(
    has_memfd: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    memory = SharedMemory.create()
    assert memory is not None
    (descriptor,) = memory.inherited
    status = os.fstat(descriptor)
    assert status.st_nlink == 0 and stat.S_IMODE(status.st_mode) == 0o600
    assert list(tmp_path.iterdir()) == []
    other = SharedMemory.open(f"descriptor:{os.dup(descriptor)}")
    memory.started()
    assert other is not None
    memory.to_worker[:3] = (1, 2, 3)
    other.from_worker[-1] = 7
    assert other.to_worker[:4].tolist() == [1, 2, 3, 0] and memory.from_worker[-1] == 7
    with pytest.raises(OSError):
        os.fstat(descriptor)


@posix
def test_memory_that_one_side_has_cannot_be_cut_short_by_the_other() -> None:
    memory = SharedMemory.create()
    assert memory is not None
    if not hasattr(os, "memfd_create"):
        pytest.skip("only Linux can seal a file")
    with pytest.raises(OSError):
        os.ftruncate(memory.inherited[0], 0)
    memory.started()


@posix
def test_a_description_never_leads_to_a_file_that_has_a_name_or_is_anything_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"w" * 2 * RING_BYTES)
    read_end, write_end = os.pipe()
    with path.open("r+b") as named, tempfile.TemporaryFile() as other_size:
        other_size.write(b"w" * 4096)
        other_size.flush()
        descriptions = [
            *(f"descriptor:{fd}" for fd in (named.fileno(), other_size.fileno(), read_end)),
            *("descriptor:-1", "descriptor:99999", "descriptor:" + "9" * 64, "descriptor:x"),
            *(f"name:{path}", "name:oflsam2-0", f"descriptor:{named.fileno()} ", "name:../x", ""),
        ]
        assert [SharedMemory.open(one) for one in descriptions] == [None] * len(descriptions)
        os.fstat(named.fileno())  # not closed either
    os.close(read_end)
    os.close(write_end)
    assert path.read_bytes() == b"w" * 2 * RING_BYTES


LARGE = {"arrays": [{"name": "a", "dtype": "uint8", "shape": [100]}], "in_memory": True}


@pytest.mark.parametrize(
    "headers",
    [
        [{NOTICE: "bytes", "count": 4}],
        [LARGE, LARGE],
        *([LARGE, {NOTICE: "bytes", "count": count}] for count in (101, 2**62, 0, -1, True)),
        *([LARGE, {NOTICE: "bytes", "count": count}] for count in ("4", 1.0, None, [4])),
        [LARGE, {NOTICE: "bytes"}],
        [LARGE, {NOTICE: "bytes", "count": 60}, {NOTICE: "bytes", "count": 60}],
        [{**LARGE, NOTICE: "bytes", "count": 4}],
        [LARGE, {NOTICE: "bytes", "count": 99}],
    ],
)
def test_bytes_in_memory_that_do_not_add_up_are_refused(headers: list[dict[str, Any]]) -> None:
    content = b"".join(encode_header(header, {}) for header in headers)
    with pytest.raises(ProtocolError) as caught:
        read_all(content, RingReader(np.zeros(64, np.uint8)))
    assert not caught.value.synchronised


def test_a_frame_in_memory_is_refused_where_no_memory_is_shared() -> None:
    with pytest.raises(ProtocolError):
        read_all(encode_header(LARGE, {}), None)


def test_damaged_frames_and_notices_give_protocol_errors_only() -> None:
    rng = np.random.default_rng(1)
    array = np.arange(100, dtype=np.uint8)
    parts = [encode_header({"id": 1}, {"a": array}, in_memory=True)]
    parts += [notice("bytes", count=60), notice("taken", count=3), notice("bytes", count=40)]
    content = b"".join(parts)
    ring = np.concatenate([array, array])
    (frame,) = read_all(content, RingReader(ring))
    np.testing.assert_array_equal(frame.arrays["a"], array)
    for _ in range(2000):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        try:
            frames = read_all(bytes(damaged), RingReader(ring))
        except ProtocolError:
            continue
        assert all(one.dtype.name in DTYPES for frame in frames for one in frame.arrays.values())


def test_a_length_of_a_header_is_no_reason_to_take_memory() -> None:
    with pytest.raises(ProtocolError):
        read_all(struct.pack("<Q", 2**40) + bytes(64), RingReader(np.zeros(64, np.uint8)))
