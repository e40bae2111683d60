"""What cannot be written is found before the work; what is written lies on the volume's grid."""

from __future__ import annotations

import stat
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError, ResourceError
from OFLSAM2Core.io.reading import (
    check_writable,
    read_volume,
    write_confidence,
    write_labelmap,
    write_segmentation,
)

SAMPLES = Path(__file__).parents[2] / "Resources" / "SampleData"


@pytest.fixture
def volume() -> Volume:
    return read_volume(SAMPLES / "hippocampus_001_image.nii.gz")


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_written_labels_and_confidence_lie_on_the_volumes_grid(tmp_path, volume, extension):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, volume.grid_shape, dtype=np.uint8)
    for write in (write_labelmap, write_confidence):
        path = tmp_path / f"out{extension}"
        write(path, labels, volume)
        read = read_volume(path)
        assert read.array.dtype == np.uint8
        np.testing.assert_array_equal(read.array, labels)
        np.testing.assert_allclose(read.affine, volume.affine, atol=1e-5)


def test_nibabel_agrees_about_a_written_labelmap(tmp_path, volume):
    labels = np.random.default_rng(0).integers(0, 3, volume.grid_shape, dtype=np.uint8)
    write_labelmap(tmp_path / "out.nii.gz", labels, volume)
    read = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(read.dataobj).T, labels)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-5)


def test_a_sheared_grid_is_kept_in_every_format(tmp_path):
    """As of a CT with a tilted gantry."""
    affine = np.array([[-1, 0, 0, 5], [0, -1, 0.3, 6], [0, 0, 2, 7], [0, 0, 0, 1.0]])
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6), dtype=np.uint8)
    volume = Volume(labels, affine, "tilted")
    structures = (Structure("a", 1), Structure("b", 2))
    write_segmentation(tmp_path / "x.seg.nrrd", labels, volume, structures)
    names = ("x.seg.nrrd", "x.mha", "x.nrrd", "x.nii.gz")
    for name in names[1:]:
        write_labelmap(tmp_path / name, labels, volume)
    for name in names:
        read = read_volume(tmp_path / name)
        np.testing.assert_array_equal(read.array, labels)
        np.testing.assert_allclose(read.affine, affine, atol=1e-6)
    np.testing.assert_allclose(nibabel.load(tmp_path / "x.nii.gz").affine, affine, atol=1e-6)


def test_an_unknown_extension_is_an_error_that_lists_the_known_ones(tmp_path, volume):
    labels = np.zeros(volume.grid_shape, np.uint8)
    with pytest.raises(InputError, match=r"out.docx.*\n.*\.nii\.gz"):
        write_labelmap(tmp_path / "out.docx", labels, volume)
    with pytest.raises(InputError, match=r"out.nrrd.*\n.*\.seg\.nrrd"):
        write_segmentation(tmp_path / "out.nrrd", labels, volume, (Structure("a", 1),))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_found_before_the_work(tmp_path):
    with pytest.raises(InputError, match="The output folder '.*nowhere' does not exist"):
        check_writable(tmp_path / "nowhere" / "out.nii.gz")


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="The output folder"):
        check_writable(tmp_path / "file" / "out.nii.gz")


def test_a_folder_that_is_not_writable_is_found_before_the_work(tmp_path):
    folder = tmp_path
    if Path("/proc/self").is_dir():  # nobody can write there, not even root
        folder = Path("/proc/self")
    else:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(InputError, match=f"The output folder '{folder}' is not writable"):
            check_writable(folder / "out.nii.gz")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_too_little_disk_is_found_before_the_work(tmp_path):
    check_writable(tmp_path / "out.nii.gz", need_bytes=1000)
    with pytest.raises(ResourceError, match=r"MB free; \d+ MB are needed for 'out.nii.gz'"):
        check_writable(tmp_path / "out.nii.gz", need_bytes=10**18)


def test_checking_leaves_nothing_behind_and_the_old_file_as_it_is(tmp_path):
    (tmp_path / "out.nii.gz").write_text("old")
    check_writable(tmp_path / "out.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["out.nii.gz"]
    assert (tmp_path / "out.nii.gz").read_text() == "old"


def test_a_written_file_has_the_usual_permissions(tmp_path, volume):
    (tmp_path / "usual").write_text("")
    write_labelmap(tmp_path / "out.nrrd", np.zeros(volume.grid_shape, np.uint8), volume)
    usual, written = ((tmp_path / name).stat().st_mode for name in ("usual", "out.nrrd"))
    assert usual == written


def test_a_written_segmentation_is_small(tmp_path, volume):
    labels = np.zeros(volume.grid_shape, np.uint8)
    labels[10:20, 10:20, 10:20] = 1
    write_segmentation(tmp_path / "out.seg.nrrd", labels, volume, (Structure("a", 1),))
    assert (tmp_path / "out.seg.nrrd").stat().st_size < labels.size / 10
    assert sitk.ReadImage(str(tmp_path / "out.seg.nrrd")).GetSize() == labels.shape[::-1]
