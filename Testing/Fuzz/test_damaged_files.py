"""Files damaged at random are read or refused in words, quickly, and never end the program."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whole_files
from damage import damaged
from hypothesis import given
from hypothesis import strategies as st
from limits import fixed

from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.io.reading import read_segmentation, read_volume

pytestmark = pytest.mark.slow

EXAMPLES = 100
NAMES = ("a_nii.nii", "a_nii_gz.nii.gz", "a_nrrd.nrrd", "a_nhdr.nhdr", "a_mha.mha", "a_mhd.mhd",
         "plain.nrrd", "a.mgh", "named.nii", "picture.png", "slice.dcm")  # fmt: skip
SLOWEST_S = 10.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    whole_files.images(folder)
    whole_files.segmentation(folder)
    return folder


def read_or_refused(read: Callable[[Path], Any], path: Path) -> Any:
    """What was read, or None where it was refused: two lines at most that name the file."""
    started = time.monotonic()
    try:
        return read(path)
    except OFLSAM2Error as error:
        assert str(path.name) in error.message
        assert 1 <= len(error.message.splitlines()) <= 2
        return None
    finally:
        assert time.monotonic() - started < SLOWEST_S


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_volume_is_read_or_refused(folder: Path, name: str) -> None:
    whole = folder / name
    path = folder / f"damaged_{name}"

    @fixed(EXAMPLES)
    @given(damaged(whole.read_bytes()))
    def reads(content: bytes) -> None:
        path.write_bytes(content)
        volume = read_or_refused(read_volume, path)
        if volume is not None:
            assert volume.array.ndim in (3, 4) and volume.array.size
            assert np.isfinite(volume.affine).all() and np.linalg.det(volume.affine[:3, :3])
            assert volume.array.dtype.kind != "f" or np.isfinite(volume.array).all()

    assert read_volume(whole).array.size
    reads()


@pytest.mark.parametrize("name", ["labels.seg.nrrd", "a_nii.nii", "a_nrrd.nrrd", "picture.png"])
def test_a_damaged_segmentation_is_read_or_refused(folder: Path, name: str) -> None:
    path = folder / f"damaged_{name}"

    @fixed(EXAMPLES)
    @given(damaged((folder / name).read_bytes(), header=1500))
    def reads(content: bytes) -> None:
        path.write_bytes(content)
        found = read_or_refused(read_segmentation, path)
        if found is not None:
            labels, affine, structures = found
            values = {structure.label for structure in structures}
            assert set(np.unique(labels)) <= {0, *values}
            assert np.isfinite(affine).all()

    reads()


@pytest.mark.parametrize("name", ["x.nii", "x.nrrd", "x.dcm", "x.png", "x"])
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str) -> None:
    @fixed(EXAMPLES)
    @given(st.binary(max_size=400))
    def reads(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        read_or_refused(read_volume, tmp_path / name)

    reads()
