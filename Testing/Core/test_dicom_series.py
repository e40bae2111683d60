"""A folder with a DICOM series is a volume; a folder with several asks which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.reading import read_volume


def make_volume(seed: int) -> sitk.Image:
    rng = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(rng.integers(-1000, 1000, (6, 16, 18)).astype(np.int16))
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((-12.0, 40.0, 9.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, -0.15).GetMatrix())
    return image


def write_series(folder: Path, image: sitk.Image, uid: str, description: str) -> None:
    """One file a slice, named so that their order says nothing."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    cosines = np.array(image.GetDirection()).reshape(3, 3)
    for number in range(image.GetSize()[2]):
        plane = image[:, :, number]
        position = image.TransformIndexToPhysicalPoint((0, 0, number))
        for tag, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{number + 1}",
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000d": "1.2.826.0.1.3680043.2.1",
            "0020|000e": uid,
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "\\".join(f"{value:.6f}" for value in cosines[:, :2].T.ravel()),
            "0028|1052": "0",
            "0028|1053": "1",
        }.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid[-3:]}_{(number * 5) % 7}.dcm"))
        writer.Execute(plane)


ARTERIAL, VENOUS = "1.2.826.0.1.3680043.2.1.101", "1.2.826.0.1.3680043.2.1.202"


def test_a_series_is_read_in_the_order_of_its_positions(tmp_path):
    image = make_volume(1)
    write_series(tmp_path / "scan", image, ARTERIAL, "arterial")
    volume = read_volume(tmp_path / "scan")
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.array.dtype.kind == "i"
    for index in ((0, 0, 0), (17, 15, 5)):
        expected = np.array([-1, -1, 1]) * image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], expected, atol=1e-3)


def test_several_series_in_a_folder_are_listed_and_can_be_chosen(tmp_path):
    write_series(tmp_path / "scan", make_volume(1), ARTERIAL, "arterial")
    write_series(tmp_path / "scan", make_volume(2), VENOUS, "venous")
    with pytest.raises(InputError, match="has 2 DICOM series") as caught:
        read_volume(tmp_path / "scan")
    for word in (ARTERIAL, VENOUS, "arterial", "venous", "6 files", "scan#SERIES_UID"):
        assert word in str(caught.value)
    volume = read_volume(f"{tmp_path / 'scan'}#{VENOUS}")
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(make_volume(2)))


def test_a_series_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path):
    write_series(tmp_path / "scan", make_volume(1), ARTERIAL, "arterial")
    with pytest.raises(InputError, match=f"no DICOM series '9.9'(.|\n)*{ARTERIAL}"):
        read_volume(f"{tmp_path / 'scan'}#9.9")


def test_a_missing_slice_is_noticed(tmp_path):
    write_series(tmp_path / "scan", make_volume(1), ARTERIAL, "arterial")
    sorted((tmp_path / "scan").iterdir())[2].unlink()
    with pytest.raises(InputError, match="not evenly spaced: 6 mm .* 3 mm elsewhere"):
        read_volume(tmp_path / "scan")


def test_a_truncated_file_in_a_series_is_an_error_not_a_crash(tmp_path):
    write_series(tmp_path / "scan", make_volume(1), ARTERIAL, "arterial")
    path = sorted((tmp_path / "scan").iterdir())[2]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError):
        read_volume(tmp_path / "scan")


def test_slices_of_a_tilted_gantry_lie_where_the_scanner_says(tmp_path):
    straight = make_volume(1)
    tilted = sitk.Image(straight)
    direction = np.array(straight.GetDirection()).reshape(3, 3)
    along = direction[:, 2] + 0.25 * direction[:, 1]
    direction[:, 2] = along / np.linalg.norm(along)
    tilted.SetDirection(direction.ravel().tolist())
    write_series(tmp_path / "scan", tilted, ARTERIAL, "arterial")
    volume = read_volume(tmp_path / "scan")
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(tilted))
    for index in ((0, 0, 0), (17, 15, 5)):
        expected = np.array([-1, -1, 1]) * tilted.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], expected, atol=1e-3)


def test_a_preview_picture_does_not_make_a_series_a_video(tmp_path):
    image = make_volume(1)
    write_series(tmp_path / "scan", image, ARTERIAL, "arterial")
    Image.new("RGB", (8, 8)).save(tmp_path / "scan" / "preview.png")
    np.testing.assert_array_equal(
        read_volume(tmp_path / "scan").array, sitk.GetArrayFromImage(image)
    )
