"""Volumes come in with their voxels, type and place in the world, or with a clear error."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from OFLSAM2Core.data.validation import check_volume
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.reading import read_support_case, read_volume

SAMPLES = Path(__file__).parents[2] / "Resources" / "SampleData"
EXTENSIONS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr")


def oblique_image(dtype: type = np.int16) -> sitk.Image:
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.integers(0, 200, (7, 9, 11)).astype(dtype))
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-20.5, 31.25, 7.0))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.4)
    image.SetDirection(turn.GetMatrix())
    return image


def ras_of(image: sitk.Image, index: tuple[int, int, int]) -> np.ndarray:
    return np.array([-1, -1, 1]) * image.TransformIndexToPhysicalPoint(index)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_oblique_volume_keeps_its_voxels_type_and_place(tmp_path, extension):
    image = oblique_image()
    path = tmp_path / f"case{extension}"
    sitk.WriteImage(image, str(path))
    volume = read_volume(path)
    assert volume.array.dtype == np.int16
    assert volume.name == "case"
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    for index in ((0, 0, 0), (10, 8, 6), (3, 5, 1)):
        world = volume.affine @ [*index, 1]
        np.testing.assert_allclose(world[:3], ras_of(image, index), atol=1e-4)


def test_the_affine_of_a_nifti_file_is_nibabels():
    path = SAMPLES / "hippocampus_001_image.nii.gz"
    volume, other = read_volume(path), nibabel.load(path)
    np.testing.assert_allclose(volume.affine, other.affine, atol=1e-6)
    np.testing.assert_array_equal(volume.array, np.asarray(other.dataobj).T)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_voxels_keep_their_type(tmp_path, dtype):
    sitk.WriteImage(oblique_image(dtype), str(tmp_path / "x.nrrd"))
    assert read_volume(tmp_path / "x.nrrd").array.dtype == dtype


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no file.*gone.nii.gz"):
        read_volume(tmp_path / "gone.nii.gz")


def test_an_unknown_kind_of_file_is_named_with_the_known_kinds(tmp_path):
    (tmp_path / "scan.docx").write_bytes(b"hello")
    with pytest.raises(InputError, match="scan.docx.*\n.*nii.gz"):
        read_volume(tmp_path / "scan.docx")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99], ids=lambda keep: f"{keep:.0%} kept")
@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_truncated_file_is_an_error_of_a_few_lines(tmp_path, extension, keep):
    whole = tmp_path / f"whole{extension}"
    sitk.WriteImage(oblique_image(), str(whole), extension in (".nii.gz", ".mha"))
    content = whole.read_bytes()
    path = tmp_path / f"half{extension}"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=f"half{extension}' cannot be read") as caught:
        read_volume(path)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_a_flipped_bit_in_packed_voxels_is_found(tmp_path, extension):
    path = tmp_path / f"bit{extension}"
    sitk.WriteImage(oblique_image(), str(path), useCompression=True)
    content = bytearray(path.read_bytes())
    content[-len(content) // 4] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(path)


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
def test_nan_and_infinite_voxels_are_background_and_counted(tmp_path, caplog, extension):
    image = oblique_image(np.float32)
    image[5, 5, 5] = -7.5
    for index, value in enumerate((np.nan, np.inf, -np.inf)):
        image[index, 0, 0] = float(value)
    sitk.WriteImage(image, str(tmp_path / f"nan{extension}"))
    array = read_volume(tmp_path / f"nan{extension}").array
    assert array[0, 0, :3].tolist() == [-7.5] * 3
    np.testing.assert_array_equal(array[1:], sitk.GetArrayFromImage(image)[1:])
    assert f"nan{extension}' has 3 voxels that are NaN or infinite" in caplog.text


def test_a_volume_of_nothing_but_nan_is_an_error(tmp_path):
    sitk.WriteImage(
        sitk.GetImageFromArray(np.full((4, 5, 6), np.nan, np.float32)), str(tmp_path / "x.mha")
    )
    with pytest.raises(InputError, match="x.mha' has nothing but voxels that are NaN"):
        read_volume(tmp_path / "x.mha")


def test_a_4d_file_is_not_a_volume_unless_it_holds_just_one(tmp_path):
    several = np.random.default_rng(0).integers(0, 99, (4, 5, 6, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(several, np.eye(4)), tmp_path / "several.nii.gz")
    nibabel.save(nibabel.Nifti1Image(several[..., :1], np.eye(4)), tmp_path / "one.nii.gz")
    with pytest.raises(InputError, match="several.nii.gz' is 4D"):
        read_volume(tmp_path / "several.nii.gz")
    assert read_volume(tmp_path / "one.nii.gz").array.shape == (6, 5, 4)


@pytest.mark.parametrize("extension", [".nrrd", ".mha", ".nii.gz"])
def test_a_colour_volume_is_read_as_its_luminance_with_a_word(tmp_path, caplog, extension):
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    path = tmp_path / f"colour{extension}"
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(path))
    expected = colour @ [0.299, 0.587, 0.114]
    assert np.abs(read_volume(path).array - expected).max() <= 0.5
    assert f"colour{extension}' is in colour" in caplog.text


def test_grey_values_that_are_stored_three_times_are_read_once(tmp_path, caplog):
    grey = np.random.default_rng(0).integers(-5, 900, (4, 5, 6)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(np.stack([grey] * 3, -1), np.eye(4)), tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "x.nii.gz").array.T, grey)
    assert "grey values 3 times" in caplog.text


@pytest.mark.parametrize("extension", [".nrrd", ".mha", ".nii.gz"])
def test_vectors_are_not_grey_values(tmp_path, extension):
    field = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    path = tmp_path / f"field{extension}"
    sitk.WriteImage(sitk.GetImageFromArray(field, isVector=True), str(path))
    with pytest.raises(InputError, match=f"field{extension}' has 3 values in every voxel"):
        read_volume(path)


@pytest.mark.parametrize("extension", [".nrrd", ".mha", ".nii.gz"])
def test_a_flat_picture_is_a_volume_of_one_slice(tmp_path, extension):
    flat = np.random.default_rng(0).integers(0, 99, (5, 6), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / f"x{extension}"))
    volume = read_volume(tmp_path / f"x{extension}")
    np.testing.assert_array_equal(volume.array, flat[np.newaxis])
    np.testing.assert_allclose(volume.spacing, 1)


def test_volumes_in_memory_are_checked_alike():
    check_volume(Volume(np.zeros((4, 5, 6), np.float32)))
    check_volume(Volume(np.zeros((4, 5, 6, 3), np.uint8)))
    for array in (
        np.full((4, 5, 6), np.nan, np.float32),
        np.zeros((4, 5, 6, 2), np.int16),
        np.zeros((5, 6)),
        np.zeros((4, 5, 6), np.complex64),
        np.zeros((4, 0, 6)),
    ):
        with pytest.raises(InputError, match="from Slicer"):
            check_volume(Volume(array, name="from Slicer"))
    with pytest.raises(InputError, match="geometry of 'from Slicer'"):
        check_volume(Volume(np.zeros((4, 5, 6)), np.diag([1.0, 1, 0, 1]), "from Slicer"))


def write_frames(folder: Path, frames: np.ndarray, names: list[str]) -> None:
    folder.mkdir()
    for frame, name in zip(frames, names, strict=True):
        Image.fromarray(frame).save(folder / name)


def test_a_folder_of_frames_is_a_sequence_in_natural_order(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), dtype=np.uint8)
    write_frames(tmp_path / "clip", frames[[0, 2, 1]], ["f1.png", "f10.png", "f9.png"])
    (tmp_path / "clip" / "notes.txt").write_text("not a frame")
    volume = read_volume(tmp_path / "clip")
    assert volume.is_sequence
    assert volume.name == "clip"
    np.testing.assert_array_equal(volume.array, frames)


def test_frames_of_different_sizes_are_an_error_that_names_the_odd_one(tmp_path):
    write_frames(tmp_path / "clip", np.zeros((2, 8, 10, 3), np.uint8), ["1.png", "2.png"])
    Image.fromarray(np.zeros((8, 11, 3), np.uint8)).save(tmp_path / "clip" / "3.png")
    with pytest.raises(InputError, match=r"3.png' has 11 x 8 pixels, '1.png' 10 x 8"):
        read_volume(tmp_path / "clip")


def test_a_truncated_frame_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 80, 100, 3), dtype=np.uint8)
    write_frames(tmp_path / "clip", noise, ["1.jpg", "2.jpg"])
    path = tmp_path / "clip" / "2.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="2.jpg' cannot be read"):
        read_volume(tmp_path / "clip")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="neither DICOM files nor JPEG or PNG frames"):
        read_volume(tmp_path)


def test_a_sequence_and_its_masks_are_a_support_case(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 8, 10, 3), dtype=np.uint8)
    masks = rng.integers(0, 2, (3, 8, 10), dtype=np.uint8) * 255
    names = ["1.png", "2.png", "3.png"]
    write_frames(tmp_path / "frames", frames, names)
    write_frames(tmp_path / "masks", masks, names)
    table = LabelTable.from_json({"1": "swan"})
    case = read_support_case(tmp_path / "frames", tmp_path / "masks", table=table)
    np.testing.assert_array_equal(case.labels, masks // 255)
    assert [structure.name for structure in case.structures] == ["swan"]
    (tmp_path / "masks" / "3.png").unlink()
    with pytest.raises(InputError, match="2 masks, 3 frames.*the frame '3.png' has no mask"):
        read_support_case(tmp_path / "frames", tmp_path / "masks", table=table)


def test_frames_with_more_than_eight_bits_are_refused_not_cut_off(tmp_path):
    (tmp_path / "video").mkdir()
    ramp = np.linspace(1000, 60000, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "video" / "frame1.png")
    with pytest.raises(InputError, match="frame1.png' has more than 8 bits"):
        read_volume(tmp_path / "video")
