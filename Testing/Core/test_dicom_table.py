"""Every slice of a DICOM series lies where its own header says, or is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_by_hand import (
    SERIES,
    oblique,
    slice_of,
    write,
    write_contours,
    write_frames,
    write_seg,
    write_series,
)

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.reading import read_volume

AFFINE = oblique()


@pytest.fixture(scope="module")
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (7, 9, 11)).astype(np.int16)


def same(path: Path, array: np.ndarray) -> None:
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def spoiled(value: object, tag: str = "ImagePositionPatient"):  # type: ignore[no-untyped-def]
    def change(data: pydicom.Dataset, k: int) -> None:
        if k == 3 and value is None:
            delattr(data, tag)
        elif k == 3:
            setattr(data, tag, value)

    return change


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [
        ("ImagePositionPatient", None, "does not say where it lies"),
        ("ImagePositionPatient", "", "does not say where it lies"),
        ("ImagePositionPatient", ["1", "2"], "ImagePositionPatient is not what it must be"),
        ("ImageOrientationPatient", None, "does not say its orientation"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], "has another orientation"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "no pair of directions at a right angle"),
        ("PixelSpacing", None, "does not say its pixel spacing"),
        ("PixelSpacing", [0.5, 0.8], "has another pixel spacing"),
        ("PixelSpacing", [0, 0.75], "a spacing of 0 mm"),
        ("Rows", 8, "198 bytes of pixels, and only 176 belong to it"),
        ("Rows", 10, "198 bytes of pixels, and 220 belong to it"),
        ("Modality", "MR", "has the modality MR, the others CT"),
        ("PatientID", "Q", r"is of another patient than the others \(PatientID\)"),
        ("FrameOfReferenceUID", "1.2.3", "is of another frame of reference than the others"),
        ("ModalityLUTSequence", [pydicom.Dataset()], "scales its values by a table"),
        ("PhotometricInterpretation", "MONOCHROME1", "has colours 1 MONOCHROME1"),
        ("PixelData", b"", "0 bytes of pixels"),
        ("PixelData", None, "ends before its pixels, or has none"),
    ],
)
def test_a_slice_that_is_not_like_the_others_is_named(tmp_path, array, tag, value, told):
    write_series(tmp_path / "ct", array, AFFINE, spoiled(value, tag))
    with pytest.raises(InputError, match=f"003.dcm'.*{told}"):
        read_volume(tmp_path / "ct")


@pytest.mark.parametrize("keep", [0, 60, 132, 500, 0.5, 0.97])
@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{}"])
def test_a_file_that_is_cut_is_named_wherever_it_was_cut(tmp_path, array, keep, name):
    files = write_series(tmp_path / "ct", array, AFFINE, name=name)
    content = files[6].read_bytes()  # The last slice: without it the rest is even.
    files[6].write_bytes(content[: keep if keep == 0 or keep > 1 else int(keep * len(content))])
    with pytest.raises(InputError, match=f"{files[6].name}' cannot be read: damaged"):
        read_volume(tmp_path / "ct")


def test_numbers_with_a_decimal_comma_are_named(tmp_path, array):
    files = write_series(tmp_path / "ct", array, AFFINE)
    content = files[3].read_bytes()
    files[3].write_bytes(content.replace(b"0.500000", b"0,500000"))
    with pytest.raises(InputError, match="003.dcm'.*PixelSpacing is not what it must be"):
        read_volume(tmp_path / "ct")


def test_pixels_in_a_syntax_that_nobody_knows_are_not_guessed(tmp_path, array):
    files = write_series(tmp_path / "ct", array, AFFINE)
    content = files[3].read_bytes()
    files[3].write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.2\0\0", 1))
    with pytest.raises(InputError, match="003.dcm'.*'1.2.840.113619.5.2', is not known"):
        read_volume(tmp_path / "ct")


@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{}"])
def test_a_text_in_place_of_a_slice_is_named(tmp_path, array, name):
    files = write_series(tmp_path / "ct", array, AFFINE, name=name)
    files[6].write_text("<html>404: not found</html>")  # The last slice: the rest is even.
    with pytest.raises(InputError, match=f"{files[6].name}' cannot be read: damaged"):
        read_volume(tmp_path / "ct")


@pytest.mark.parametrize("kind", ["OB", "OW"])
@pytest.mark.parametrize("shape", [(7, 9, 11), (7, 8, 10)])
def test_bytes_in_words_of_the_other_byte_order_are_put_right(tmp_path, kind, shape):
    values = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    for k, plane in enumerate(values):
        data = slice_of(values.astype(np.int16), AFFINE, k)
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelRepresentation = 0
        stored = np.append(plane.ravel(), np.zeros(plane.size % 2, np.uint8))
        if kind == "OW":
            stored = stored.view(np.uint16).byteswap()
        data.PixelData = stored.tobytes()
        data["PixelData"].VR = kind
        (tmp_path / "ct").mkdir(exist_ok=True)
        pydicom.dcmwrite(tmp_path / "ct" / f"{k}.dcm", data, implicit_vr=False, little_endian=False)
    same(tmp_path / "ct", values)


def test_a_dose_grid_is_scaled_and_its_frames_follow_their_offsets(tmp_path, array):
    data = slice_of(array, AFFINE, 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"
    data.Modality, data.NumberOfFrames, data.DoseGridScaling = "RTDOSE", len(array), "0.5"
    data.GridFrameOffsetVector = [f"{3 * k}" for k in range(len(array))]
    del data.RescaleSlope, data.RescaleIntercept
    data.PixelData = array.astype("<i2").tobytes()
    same(write(tmp_path / "dose.dcm", data), array * 0.5)


def test_values_that_are_displayed_inverted_are_read_as_stored_with_a_warning(
    tmp_path, array, caplog
):
    def turned(data: pydicom.Dataset, k: int) -> None:
        data.PhotometricInterpretation = "MONOCHROME1"

    write_series(tmp_path / "ct", array, AFFINE, turned)
    same(tmp_path / "ct", array)
    assert "MONOCHROME1" in caplog.text


def test_notes_and_pictures_beside_a_series_are_passed_over(tmp_path, array):
    write_series(tmp_path / "ct", array, AFFINE, name="IM{}")
    (tmp_path / "ct" / "README").write_text("Exported on Monday.")
    (tmp_path / "ct" / "preview.jpg").write_bytes(b"\xff\xd8\xff")
    same(tmp_path / "ct", array)


def shifted(steps: np.ndarray):  # type: ignore[no-untyped-def]
    """Slices with other steps between them, along their normal."""
    normal = np.array([-1, -1, 1]) * AFFINE[:3, 2] / np.linalg.norm(AFFINE[:3, 2])
    places = np.concatenate([[0], np.cumsum(steps)])

    def change(data: pydicom.Dataset, k: int) -> None:
        start = np.array([-1, -1, 1]) * AFFINE[:3, 3]
        data.ImagePositionPatient = [f"{x:.6f}" for x in start + places[k] * normal]

    return change


def test_steps_that_add_up_to_more_than_a_tenth_are_refused_though_neighbours_look_even(tmp_path):
    array = np.zeros((60, 4, 5), np.int16)
    steps = np.where(np.arange(59) < 30, 3.0, 3.1)
    write_series(tmp_path / "ct", array, AFFINE, shifted(steps))
    with pytest.raises(InputError, match="not evenly spaced.*mm from its place in an even grid"):
        read_volume(tmp_path / "ct")


def test_steps_that_are_rounded_are_even(tmp_path):
    array = np.zeros((60, 4, 5), np.int16)
    exact = np.arange(60) * 0.625
    write_series(tmp_path / "ct", array, AFFINE, shifted(np.diff(exact.round(1))))
    assert read_volume(tmp_path / "ct").spacing[2] == pytest.approx(0.625, abs=0.002)


@pytest.mark.parametrize("missing", [1, 3, 5])
def test_a_missing_slice_is_noticed_wherever_it_was(tmp_path, array, missing):
    files = write_series(tmp_path / "ct", array, AFFINE)
    files[missing].unlink()
    with pytest.raises(InputError, match="not evenly spaced: 6 mm between"):
        read_volume(tmp_path / "ct")


def test_a_file_twice_is_read_once_and_another_picture_of_that_name_is_refused(
    tmp_path, array, caplog
):
    files = write_series(tmp_path / "ct", array, AFFINE)
    for file in files:
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    same(tmp_path / "ct", array)
    assert "7 DICOM files are copies of others" in caplog.text
    other = slice_of(array + 1, AFFINE, 3)
    write(tmp_path / "ct" / "other.dcm", other)
    with pytest.raises(InputError, match="claim to be the same DICOM image and differ"):
        read_volume(tmp_path / "ct")


def test_two_time_points_are_not_stacked(tmp_path, array):
    def second(data: pydicom.Dataset, k: int) -> None:
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.9{k}"

    write_series(tmp_path / "ct", array, AFFINE)
    write_series(tmp_path / "ct", array + 1, AFFINE, second, name="late{}.dcm")
    with pytest.raises(InputError, match="7 slices at the place of another"):
        read_volume(tmp_path / "ct")


def test_each_slice_is_scaled_by_its_own_slope(tmp_path, array):
    def scale(data: pydicom.Dataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = f"{0.5 + k}", f"{-10 * k}"

    write_series(tmp_path / "pet", array, AFFINE, scale)
    volume = read_volume(tmp_path / "pet")
    slopes = np.arange(7)[:, None, None]
    np.testing.assert_allclose(volume.array, array * (0.5 + slopes) - 10 * slopes, rtol=1e-6)


def test_a_slice_that_does_not_say_its_slope_among_others_that_do_is_named(tmp_path, array):
    def scale(data: pydicom.Dataset, k: int) -> None:
        data.RescaleIntercept = "-1024"
        if k == 3:
            del data.RescaleSlope

    write_series(tmp_path / "ct", array, AFFINE, scale)
    with pytest.raises(InputError, match="003.dcm'.*does not say how its values are scaled"):
        read_volume(tmp_path / "ct")


def test_whole_slopes_keep_whole_numbers_and_bits_beyond_those_stored_are_cut_off(tmp_path):
    stored = np.random.default_rng(0).integers(0, 4096, (3, 4, 5)).astype(np.int16)

    def twelve_bits(data: pydicom.Dataset, k: int) -> None:
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, 0
        data.RescaleIntercept = "-1024"
        overlay = np.array(0x8000, np.uint16)
        data.PixelData = (stored[k].astype(np.uint16) | overlay).tobytes()

    write_series(tmp_path / "ct", stored, AFFINE, twelve_bits)
    volume = read_volume(tmp_path / "ct")
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, stored - 1024)


@pytest.mark.parametrize(
    "order", [range(7), range(6, -1, -1), [3, 0, 6, 1, 5, 2, 4]], ids=["up", "down", "shuffled"]
)
def test_frames_of_one_file_lie_where_their_functional_groups_say(tmp_path, array, order):
    write_frames(tmp_path / "one.dcm", array, AFFINE, list(order))
    same(tmp_path / "one.dcm", array)
    same(tmp_path, array)


def test_frames_are_scaled_each_by_its_own_group(tmp_path, array):
    def own(data: pydicom.Dataset) -> None:
        del data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            values = pydicom.Dataset()
            values.RescaleSlope, values.RescaleIntercept = "1", str(100 * number)
            frame.PixelValueTransformationSequence = [values]

    write_frames(tmp_path / "one.dcm", array, AFFINE, list(range(7)), own)
    expected = array + 100 * np.arange(7)[:, None, None]
    np.testing.assert_array_equal(read_volume(tmp_path / "one.dcm").array, expected)


@pytest.mark.parametrize(
    ("order", "told"),
    [([0, 1, 2, 4, 5, 6], "not evenly spaced"), ([*range(7)] * 2, "at the place of another")],
    ids=["gap", "two time points"],
)
def test_frames_that_make_no_volume_are_refused(tmp_path, array, order, told):
    write_frames(tmp_path / "one.dcm", array, AFFINE, order)
    with pytest.raises(InputError, match=told):
        read_volume(tmp_path / "one.dcm")


def test_frames_without_places_are_refused_and_fewer_groups_than_frames(tmp_path, array):
    def without(data: pydicom.Dataset) -> None:
        for frame in data.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence

    def fewer(data: pydicom.Dataset) -> None:
        data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:5]

    write_frames(tmp_path / "a.dcm", array, AFFINE, list(range(7)), without)
    with pytest.raises(InputError, match="7 images .* do not say where they lie"):
        read_volume(tmp_path / "a.dcm")
    write_frames(tmp_path / "b.dcm", array, AFFINE, list(range(7)), fewer)
    with pytest.raises(InputError, match="b.dcm'.*it has 7 frames, and describes 5"):
        read_volume(tmp_path / "b.dcm")


def test_a_series_is_found_by_one_of_its_files_below_folders_and_in_a_zip_archive(
    tmp_path, array, caplog
):
    files = write_series(tmp_path / "DICOM" / "PA0" / "ST0" / "SE0", array, AFFINE, name="IM{}")
    same(tmp_path / "DICOM", array)
    same(files[4], array)
    assert "one of 7 files of its series" in caplog.text
    shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "DICOM")
    same(tmp_path / "export.zip", array)
    assert read_volume(tmp_path / "export.zip").name == "export"


def test_reports_and_segmentations_in_the_folder_are_no_slices(tmp_path, array):
    write_series(tmp_path / "ct", array, AFFINE)
    labels = (array > 0).astype(np.uint8)
    write_seg(tmp_path / "ct" / "seg.dcm", labels, AFFINE, ["liver"])
    write_contours(tmp_path / "ct" / "contours.dcm", {"liver": [np.zeros((3, 3))]})
    same(tmp_path / "ct", array)
    for name in ("seg.dcm", "contours.dcm"):
        with pytest.raises(InputError, match=f"{name}' is .*, not an image"):
            read_volume(tmp_path / "ct" / name)
    (tmp_path / "only").mkdir()
    shutil.copy(tmp_path / "ct" / "seg.dcm", tmp_path / "only")
    with pytest.raises(InputError, match="holds a DICOM segmentation .SEG., not an image"):
        read_volume(tmp_path / "only")


@pytest.mark.parametrize("syntax", ["JPEG2000", "JPEG", "rle"])
def test_compressed_slices_are_the_same_and_scaled_once(tmp_path, array, syntax):
    """Written by SimpleITK and pydicom; read through neither's own scaling."""

    def scaled(data: pydicom.Dataset, k: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = str(k + 1), "-7"

    files = write_series(tmp_path / "ct", array, AFFINE, scaled)
    for file in files:
        data = pydicom.dcmread(file)
        if syntax == "rle":
            data.compress(pydicom.uid.RLELossless)
        else:
            image = sitk.GetImageFromArray(data.pixel_array)
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.SetUseCompression(True)
            writer.SetCompressor(syntax)
            if syntax == "JPEG":
                image += 1024  # SimpleITK's JPEG is for positive numbers.
                image = sitk.Cast(image, sitk.sitkUInt16)
            writer.SetFileName(str(tmp_path / "packed.dcm"))
            writer.Execute(image)
            packed = pydicom.dcmread(tmp_path / "packed.dcm")
            if not packed.file_meta.TransferSyntaxUID.is_compressed:
                pytest.fail("not compressed")
            data.PixelData = packed.PixelData
            data["PixelData"].is_undefined_length = True
            data.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
            data.PixelRepresentation = packed.PixelRepresentation
        write(file, data)
    offset = 1024 if syntax == "JPEG" else 0
    expected = (array.astype(int) + offset) * np.arange(1, 8)[:, None, None] - 7
    found = read_volume(tmp_path / "ct").array
    assert np.abs(found - expected).max() <= (0 if syntax != "JPEG" else 7)


def test_compressed_pixels_that_are_cut_are_named(tmp_path, array):
    files = write_series(tmp_path / "ct", array, AFFINE)
    for file in files:
        data = pydicom.dcmread(file)
        data.compress(pydicom.uid.RLELossless)
        write(file, data)
    files[6].write_bytes(files[6].read_bytes()[:-60])
    with pytest.raises(InputError, match="006.dcm' cannot be read: damaged.*end too early"):
        read_volume(tmp_path / "ct")


def test_a_single_picture_without_a_place_is_one_slice_with_a_word(tmp_path, array, caplog):
    def bare(data: pydicom.Dataset, k: int) -> None:
        del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing

    write_series(tmp_path / "xray", array[:1], AFFINE, bare)
    np.testing.assert_array_equal(read_volume(tmp_path / "xray").array, array[:1])
    assert "does not say where its picture lies nor the spacing of its pixels" in caplog.text


def test_a_mosaic_of_slices_is_no_slice(tmp_path, array):
    def mosaic(data: pydicom.Dataset, k: int) -> None:
        data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]

    write_series(tmp_path / "mr", array, AFFINE, mosaic)
    with pytest.raises(InputError, match="000.dcm'.* is a mosaic of slices"):
        read_volume(tmp_path / "mr")
