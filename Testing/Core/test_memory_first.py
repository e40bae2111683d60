"""What does not fit into memory or onto the disk is refused before it is read, in words."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from OFLSAM2Core.errors import InputError, OFLSAM2Error, ResourceError, TaskError
from OFLSAM2Core.io.memory_first import require_memory_to_segment
from OFLSAM2Core.io.reading import read_volume
from OFLSAM2Core.io.volume_size import volume_size
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.runtime.memory_check import available_memory, require_memory
from OFLSAM2Core.runtime.memory_estimate import bytes_to_segment

SIZES = ((4, 6, 8), (3, 5, 7))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("shape", SIZES)
def test_the_size_of_a_volume_is_known_from_its_header(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    image = sitk.GetImageFromArray(np.zeros(shape, np.int16))
    sitk.WriteImage(image, str(tmp_path / name))
    size = volume_size(tmp_path / name)
    assert size is not None and size.shape == shape
    assert size.bytes == 2 * np.prod(shape) <= size.read_bytes


def test_slices_are_counted_as_the_volume_will_be_cut_whatever_the_order_it_is_stored_in(
    tmp_path: Path,
) -> None:
    """Sagittal slices of 1 mm, isotropic: readers expect axial ones, of which there are 8."""
    image = sitk.GetImageFromArray(np.zeros((4, 8, 6), np.int16))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))  # columns along A, rows along S, slices along R
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    size = volume_size(tmp_path / "a.nrrd")
    assert size is not None and (size.shape, size.slices) == ((4, 8, 6), 8)


def test_a_picture_is_one_slice_and_an_archive_has_no_more_of_them_than_files(
    tmp_path: Path,
) -> None:
    """Not one a row, nor one a byte, which would have both refused."""
    flat = sitk.GetImageFromArray(np.zeros((2000, 1500), np.uint8))
    sitk.WriteImage(flat, str(tmp_path / "flat.nii"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(5):
            archive.writestr(f"{number}.dcm", bytes(1_000_000))
    for name, most in (("flat.nii", 1), ("a.zip", 5)):
        size = volume_size(tmp_path / name)
        assert size is not None and size.slices is not None and size.slices <= most
        needed = bytes_to_segment(size.shape[-3:], size.itemsize, 1, size.slices)
        assert needed < 1_100_000_000
        require_memory_to_segment(tmp_path / name)


def test_a_header_that_announces_more_than_there_is_memory_for_is_refused_at_once(
    tmp_path: Path,
) -> None:
    """100 000 voxels along each axis; the file holds a few bytes."""
    lying = [
        ("a.nrrd", b"NRRD0004\ntype: short\ndimension: 3\nsizes: 100000 100000 100000\n"
                   b"encoding: gzip\nspace: left-posterior-superior\n"
                   b"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
                   + gzip.compress(bytes(1000))),
        ("a.mha", b"ObjectType = Image\nNDims = 3\nDimSize = 100000 100000 100000\n"
                  b"ElementType = MET_SHORT\nCompressedData = False\nElementDataFile = LOCAL\n"
                  + bytes(1000)),
    ]  # fmt: skip
    for name, content in lying:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OFLSAM2Error, match=name):
            read_volume(tmp_path / name)


def test_a_volume_of_zeros_that_is_packed_small_is_called_too_large_not_damaged(
    tmp_path: Path,
) -> None:
    shape = (200, 512, 512)
    image = sitk.GetImageFromArray(np.zeros(shape, np.int16))
    sitk.WriteImage(image, str(tmp_path / "zeros.nii.gz"), useCompression=True)
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED.format(path=str(tmp_path / "zeros.nii.gz"))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "ResourceError" in done.stdout, (done.stdout, done.stderr)
    assert "memory" in done.stdout and "damaged" not in done.stdout


_LIMITED = """
import resource
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.io.reading import read_volume
import psutil, numpy, scipy.ndimage

try:
    read_volume("nowhere.nii.gz")  # Everything that reading needs is imported.
except OFLSAM2Error:
    pass
limit = psutil.Process().memory_info().vms + 80_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    read_volume({path!r})
except OFLSAM2Error as error:
    print(type(error).__name__, error)
"""


def test_the_process_own_limit_counts_as_memory_that_is_free() -> None:
    program = (
        "import resource, psutil\n"
        "from OFLSAM2Core.runtime.memory_check import available_memory\n"
        "used = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000,) * 2)\n"
        "print(available_memory())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert 0 <= int(done.stdout) <= 50_000_000
    assert resource.getrlimit(resource.RLIMIT_AS)[0] in (resource.RLIM_INFINITY, -1)
    assert available_memory() > 50_000_000


def test_more_than_there_is_is_refused_with_both_figures() -> None:
    with pytest.raises(ResourceError, match=r"needs about 1000000\.0 GB of memory; .* are free"):
        require_memory(1e15, "'x'", "Crop it.")


def test_a_large_picture_is_read_and_one_too_large_is_refused_by_its_size(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("L", (20_000, 10_000)).save(large)  # 200 megapixels: more than Pillow likes.
    assert read_volume(large).array.shape == (1, 10_000, 20_000)
    huge = bytearray(large.read_bytes())
    huge[16:24] = (2_000_000_000).to_bytes(4, "big") * 2
    (tmp_path / "huge.png").write_bytes(huge)
    with pytest.raises(OFLSAM2Error, match=r"huge\.png"):
        read_volume(tmp_path / "huge.png")


@pytest.mark.parametrize("spacing", [(1e-6, 1, 1), (1, 1, 1e-9), (1e-6, 1e-6, 1e-6), (5000, 1, 1)])
def test_a_spacing_that_no_instrument_has_is_refused(
    tmp_path: Path, spacing: tuple[float, float, float]
) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 6, 8), np.int16))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match=r"a\.nrrd.* has voxels of "):
        read_volume(tmp_path / "a.nrrd")


def test_a_task_that_would_unpack_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    path = tmp_path / "bomb.oflsam2"
    piece = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("task.json", json.dumps({"format": 3}))
        with archive.open("tensors.safetensors", "w", force_zip64=True) as member:
            for _ in range(512):
                member.write(piece)
    assert path.stat().st_size < 2_000_000
    with pytest.raises(TaskError, match="would unpack to 537 MB"):
        LearnedTask.load(path)


def test_a_case_of_a_data_set_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path,
) -> None:
    """Its slices are many and small: reading it takes 20 MB, segmenting it more than 5 GB. That its
    labels are missing is what reading would say."""
    for name in "abc":
        image = sitk.GetImageFromArray(np.zeros((3000, 80, 80), np.uint8))
        sitk.WriteImage(image, str(tmp_path / f"{name}_image.nii.gz"), useCompression=True)
        (tmp_path / f"{name}_label.nii.gz").write_bytes(b"no image")
    content = {"labels": {"1": "organ"}, "support": ["a", "b"], "test": ["c"]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    program = (
        "import resource, sys, psutil\n"
        "from OFLSAM2Core.errors import OFLSAM2Error\n"
        "from OFLSAM2Core.evaluation.datasets import Dataset\n"
        "dataset = Dataset.open(sys.argv[1])\n"
        "used = psutil.Process().memory_info().vms\n"
        "for free, read in ((3e9, lambda: dataset.read_case('c')),\n"
        "                   (5e8, lambda: dataset.read_support(['a', 'b']))):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + int(free), -1))\n"
        "    try:\n"
        "        read()\n"
        "    except OFLSAM2Error as error:\n"
        "        print(type(error).__name__, error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    one, support = done.stdout.splitlines()
    assert one.startswith("ResourceError '") and "c_image.nii.gz' needs about" in one, done.stderr
    assert support.startswith("ResourceError Learning from 2 volumes needs about")
