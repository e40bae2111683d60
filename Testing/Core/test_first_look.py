"""What headers tell stops a case, and no other, before anything is learned."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import WITHOUT_BACKBONE, refused, run
from dicom_by_hand import oblique, write_series
from PIL import Image

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.evaluate import EvaluatedCase, FailedCase, Learned, evaluate
from OFLSAM2Core.io.first_look import look_at_segmentation, look_at_volume
from OFLSAM2Core.session import FewShotSession

KINDS = ("image.nii", "image.nii.gz", "image.nrrd", "image.mha", "image.mhd")


def write(path: Path, array: np.ndarray, packed: bool = False) -> Path:
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(made, str(path), packed)
    return path


def noise(shape: tuple[int, int, int] = (6, 20, 24)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, shape).astype(np.int16)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_whole_image_passes(tmp_path: Path, name: str, packed: bool) -> None:
    look_at_volume(write(tmp_path / name, noise(), packed))
    look_at_segmentation(write(tmp_path / name, np.ones((3, 4, 5), np.uint8), packed))


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "image.nrrd", "image.mha"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_an_image_that_was_cut_off_is_named(tmp_path: Path, name: str, kept: float) -> None:
    path = write(tmp_path / name, noise(), packed=name == "image.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    for look in (look_at_volume, look_at_segmentation):
        with pytest.raises(InputError, match=name):
            look(path)


def test_an_image_packed_in_several_pieces_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii", noise())
    content = path.read_bytes()
    packed = tmp_path / "pieces.nii.gz"
    packed.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    look_at_volume(packed)
    packed.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:-4000]))
    with pytest.raises(InputError, match=r"pieces\.nii\.gz.*header says"):
        look_at_volume(packed)


def no_spacing(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[84:88] = np.float32(0).tobytes()  # pixdim[2]
    content[252:256] = bytes(4)  # Neither qform nor sform.
    path.write_bytes(content)


def far_away(path: Path) -> None:
    made = sitk.ReadImage(str(path))
    made.SetOrigin((1e9, 0.0, 0.0))
    sitk.WriteImage(made, str(path))


def of_complex_numbers(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[70:74] = np.array([32, 64], np.int16).tobytes()  # complex64
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [no_spacing, far_away, of_complex_numbers])
def test_a_header_that_reading_refuses_is_refused(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "image.nii", noise())
    harm(path)
    with pytest.raises(InputError, match=r"image\.nii"):
        look_at_volume(path)


def test_nothing_empty_and_other_bytes_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "bytes.nrrd").write_bytes(zlib.compress(bytes(1000)))
    (tmp_path / "folder").mkdir()
    for name in ("none.nii.gz", "empty.nii.gz", "bytes.nrrd", "folder"):
        for look in (look_at_volume, look_at_segmentation):
            with pytest.raises(InputError, match=name):
                look(tmp_path / name)


def test_a_slice_that_is_missing_in_a_dicom_series_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    write_series(folder, noise(), oblique())
    look_at_volume(folder)
    with pytest.raises(InputError, match="only images"):
        look_at_segmentation(folder)
    sorted(folder.iterdir())[2].unlink()
    with pytest.raises(InputError, match="evenly spaced"):
        look_at_volume(folder)


def test_frames_and_masks_of_a_sequence_have_one_size_and_belong_together(tmp_path: Path) -> None:
    frames, masks = tmp_path / "frames", tmp_path / "masks"
    for folder, suffix in ((frames, "jpg"), (masks, "png")):
        folder.mkdir()
        for number in range(3):
            Image.new("L", (16, 12)).save(folder / f"{number}.{suffix}")
    look_at_volume(frames)
    look_at_segmentation(masks, frames)
    (masks / "2.png").rename(masks / "7.png")
    with pytest.raises(InputError, match=r"2\.jpg"):
        look_at_segmentation(masks, frames)
    Image.new("L", (10, 12)).save(frames / "1.jpg")
    with pytest.raises(InputError, match=r"1\.jpg"):
        look_at_volume(frames)


# Evaluating


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A support case and three test cases with a block each."""
    folder = tmp_path / "data"
    folder.mkdir()
    for case in range(4):
        labels = np.zeros((8, 24, 24), np.uint8)
        labels[2:6, 6:16, 6 + case : 16 + case] = 1
        write(folder / f"case{case}_image.nii.gz", (labels * 100 + noise(labels.shape) // 50))
        write(folder / f"case{case}_label.nii.gz", labels)
    cases = {"support": ["case0"], "test": ["case1", "case2", "case3"]}
    (folder / "dataset.json").write_text(json.dumps({"labels": {"1": "block"}, **cases}))
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("file", ["case3_image.nii.gz", "case3_label.nii.gz"])
def test_a_damaged_later_case_is_reported_before_anything_is_learned(
    dataset: Path, file: str
) -> None:
    cut(dataset / file)
    session = FewShotSession("litemedsam", "cpu", method="atlas", options={"slicing_axis": "axial"})
    opened = Dataset.open(dataset)
    told = list(evaluate(session, opened, *opened.choose(None, None, None)))
    kinds = [type(item) for item in told]
    assert kinds == [FailedCase, Learned, EvaluatedCase, EvaluatedCase]
    failed = told[0]
    assert isinstance(failed, FailedCase)
    assert failed.name == "case3" and file in str(failed.error)


def test_the_command_lists_a_damaged_later_case_with_its_reason(
    dataset: Path, tmp_path: Path
) -> None:
    cut(dataset / "case3_image.nii.gz")
    done = run("evaluate", dataset, "--out", tmp_path / "report", *WITHOUT_BACKBONE)
    assert done.returncode == 3, done.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["complete"]
    assert [case["case"] for case in report["cases"]] == ["case1", "case2"]
    (failed,) = report["failed"]
    assert failed["case"] == "case3" and "case3_image.nii.gz" in failed["message"]
    message = done.stdout + done.stderr
    assert message.index("case3 has no result") < message.index("Learned from case0")


def test_the_command_refuses_at_once_where_no_case_is_left(dataset: Path, tmp_path: Path) -> None:
    for case in (1, 2, 3):
        cut(dataset / f"case{case}_image.nii.gz")
    done = run("evaluate", dataset, "--out", tmp_path / "report", *WITHOUT_BACKBONE)
    refused(done, "None of the 3 test cases", "case1_image.nii.gz")
    assert not list((tmp_path / "report").glob("report.*"))


def test_labels_without_a_table_are_named_after_the_cases_that_can_be_read(dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    del content["labels"]
    (dataset / "dataset.json").write_text(json.dumps(content))
    cut(dataset / "case3_label.nii.gz")
    assert [one.label for one in Dataset.open(dataset).table.structures] == [1]
