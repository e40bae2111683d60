"""The voxels that a header announces: counted, and their checksum compared, while they are read.

Readers fill a truncated file with zeros, or return what could be unpacked. Here every byte that
the header announces must be there.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import ResourceError
from OFLSAM2Core.io.image_header import ImageHeader, damaged, missing_file
from OFLSAM2Core.runtime.counted import counted

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20

# Some writers fill up the last block.
_PADDING = 1024

_MOST_REST = 1 << 30

# Deflate packs at most 1032 bytes into one.
_MOST_PACKED = 1100


def open_unpacked(path: Path) -> BinaryIO:
    """A file, unpacked if its first bytes say that it is packed, whatever its name."""
    packing = packing_of(path)
    if packing == "gzip":
        return cast(BinaryIO, gzip.GzipFile(path))
    if packing == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(path))
    return open(path, "rb")


def packing_of(path: Path) -> str:
    """What `open_unpacked` does with the file: "gzip", "bzip2" or ""."""
    with open(path, "rb") as file:
        magic = file.read(3)
    return "gzip" if magic[:2] == b"\x1f\x8b" else "bzip2" if magic == b"BZh" else ""


def voxel_bytes(header: ImageHeader) -> int:
    """How many bytes the voxels take in memory, by the header alone."""
    return math.prod(header.shape) * header.components * header.dtype.itemsize


def check_stored(header: ImageHeader) -> None:
    """The files can hold the bytes that the header announces, by their sizes alone.

    Raises InputError naming the file: missing, too short.
    """
    part = _bytes_a_file(header)
    for path in header.files:
        try:
            _start_of(header, path.stat().st_size, part)
        except ValueError as error:
            raise damaged(header.path, _reason(error)) from error
        except FileNotFoundError as error:
            raise missing_file(path) from error


def ends_as_announced(header: ImageHeader) -> bool:
    """Whether the last bytes of a gzip file say that as much was packed as the header announces.
    A file that was cut off ends with any bytes; one packed in several pieces with the size of the
    last. True of other packings, which have no such check.
    """
    if header.packing != "gzip":
        return True
    announced = header.skip + _bytes_a_file(header)
    for path in header.files:
        with open(path, "rb") as file:
            file.seek(-4, 2)
            packed = int.from_bytes(file.read(4), "little")
        if not 0 <= (packed - announced) % (1 << 32) <= _PADDING:
            return False
    return True


def read_voxels(header: ImageHeader) -> npt.NDArray:
    """The voxels in their stored type, slowest axis first: (K, J, I), and a last axis where there
    are several components. Slope and intercept are not applied.

    Raises InputError naming the file where bytes are missing or the checksum is wrong,
    ResourceError where there is not enough memory.
    """
    needed = voxel_bytes(header)
    part = _bytes_a_file(header)
    try:
        parts = [_read_part(header, file, part) for file in header.files]
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise damaged(header.path, _reason(error)) from error
    except FileNotFoundError as error:
        raise missing_file(Path(error.filename)) from error
    except MemoryError as error:
        raise ResourceError(
            f"'{header.path}' needs {needed / 1e9:.1f} GB of memory for its voxels alone.",
            "Close other programs, or crop the volume.",
        ) from error
    except OSError as error:
        raise damaged(header.path, error.strerror or error) from error
    flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
    array = flat.view(header.dtype)
    if not header.dtype.isnative:
        array = array.byteswap().view(header.dtype.newbyteorder("="))
    stored = list(header.shape)
    if header.components > 1:
        stored.insert(header.component_axis, header.components)
    array = array.reshape(stored[::-1])
    if header.components > 1:
        array = np.moveaxis(array, len(stored) - 1 - header.component_axis, -1)
    return array


def _bytes_a_file(header: ImageHeader) -> int:
    needed = voxel_bytes(header)
    part, rest = divmod(needed, len(header.files))
    if rest:
        raise damaged(header.path, f"its {needed} bytes do not fit {len(header.files)} files")
    return part


def _start_of(header: ImageHeader, size: int, needed: int) -> int:
    """Where the voxels begin in a file of so many bytes. Raises ValueError where it is too short
    for what it is to hold."""
    start = size - needed if header.start < 0 else header.start
    if header.packing in ("", "text", "hex"):
        start += header.skip
    if start < 0 or start > size:
        raise ValueError(f"it has {size} bytes, and its header says {needed} of voxels")
    if not header.packing and size - start < needed:
        raise ValueError(f"it holds {size - start} bytes of voxels, and its header says {needed}")
    if header.packing in ("gzip", "zlib") and needed > _MOST_PACKED * size:
        raise ValueError(f"{size} bytes cannot hold the {needed} that its header says")
    return start


def _read_part(header: ImageHeader, path: Path, needed: int) -> npt.NDArray[np.uint8]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = _start_of(header, size, needed)
        file.seek(start)
        if header.packing in ("text", "hex"):
            return _from_text(file.read(), header, needed)
        if not header.packing:
            array = np.empty(needed, np.uint8)
            _fill(file, array)
            _say_rest(path, size - start - needed)
            return array
        return _unpacked(path, _stream(file, header.packing), header.skip, needed)


def _stream(file: BinaryIO, packing: str) -> BinaryIO:
    if packing == "gzip":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if packing == "bzip2":
        return cast(BinaryIO, bz2.BZ2File(file))
    return cast(BinaryIO, io.BufferedReader(_ZlibFile(file), _CHUNK))


def _unpacked(path: Path, stream: BinaryIO, skip: int, needed: int) -> npt.NDArray[np.uint8]:
    while skip > 0:
        passed = stream.read(min(skip, _CHUNK))
        if not passed:
            raise EOFError("the packed data end too early")
        skip -= len(passed)
    array = np.empty(needed, np.uint8)
    _fill(stream, array)
    rest = 0  # The checksum comes after the last byte.
    while chunk := stream.read(_CHUNK):
        rest += len(chunk)
        if rest > _MOST_REST:
            raise ValueError(f"it holds far more than the {needed} bytes that its header says")
    _say_rest(path, rest)
    return array


def _say_rest(path: Path, rest: int) -> None:
    if rest > _PADDING:
        _log.warning("'%s' holds %s more than its header says.", path, counted(rest, "byte"))


def _fill(stream: BinaryIO, array: npt.NDArray[np.uint8]) -> None:
    view, done = memoryview(array.data), 0
    while done < len(array):
        count = stream.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"it holds {done} bytes of voxels, and its header says {len(array)}")
        done += count


def _from_text(content: bytes, header: ImageHeader, needed: int) -> npt.NDArray[np.uint8]:
    if header.packing == "hex":
        found = np.frombuffer(bytes.fromhex(content.decode("ascii")), np.uint8)
    else:
        found = np.array(content.split(), header.dtype).view(np.uint8)
    if len(found) < needed:
        raise ValueError(f"it holds {len(found)} bytes of voxels, and its header says {needed}")
    return found[:needed].copy()


def _reason(error: BaseException) -> str:
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return f"the packed data are damaged: {error}"
    return str(error).strip().rstrip(".") or type(error).__name__


class _ZlibFile(io.RawIOBase):
    """Unpacks zlib data (MetaImage) as they are read, with zlib's checksum; also gzip data."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._packed = file, b""
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._unpacker.eof:
            self._packed = self._packed or self._file.read(_CHUNK)
            if not self._packed:
                raise EOFError("the packed data end too early")
            found = self._unpacker.decompress(self._packed, len(buffer))
            self._packed = self._unpacker.unconsumed_tail
            if found:
                buffer[: len(found)] = found
                return len(found)
        return 0
