"""Outputs of a cohort: whole or not at all, flat or as BIDS derivatives, read by other readers."""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import ball, no_file_larger_than

from OFLSAM2Core.cohort.bids import BidsLayout, entities_of, write_dataset_files
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.judgement import judge
from OFLSAM2Core.cohort.outputs import FlatLayout, all_or_none, missing_outputs, written_files
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import OFLSAM2Error

STRUCTURES = (Structure("liver", 1, (1, 0, 0)), Structure("spleen", 7, (0, 1, 0.5)))
TURNED = np.array([[0, -2.0, 0, 10], [1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def segmented() -> tuple[Volume, np.ndarray, np.ndarray]:
    volume = Volume(ball(), TURNED, "x")
    labels = np.where(volume.array > 100, 1, 0).astype(np.uint8)
    labels[:, :, 8:][labels[:, :, 8:] > 0] = 7
    return volume, labels, np.full(labels.shape, 200, np.uint8)


def test_flat_outputs_are_a_segmentation_and_its_confidence_on_the_volume_s_grid(
    tmp_path: Path,
) -> None:
    volume, labels, confidence = segmented()
    case = CaseInput("x", "/data/x.nii.gz")
    FlatLayout().write(tmp_path, case, volume, labels, confidence, STRUCTURES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("x.seg.nrrd", "x_confidence.nrrd")
    ]
    read = sitk.ReadImage(str(tmp_path / "x.seg.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), labels)
    corner = np.diag([-1, -1, 1]) @ np.array(read.TransformIndexToPhysicalPoint((3, 2, 1)))
    np.testing.assert_allclose(corner, (TURNED @ [3, 2, 1, 1])[:3], atol=1e-5)


def test_bids_outputs_say_what_values_mean_and_nibabel_finds_them_in_place(tmp_path: Path) -> None:
    volume, labels, confidence = segmented()
    case = CaseInput("sub-01_ses-b_T1w", "/d/sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz")
    BidsLayout().write(tmp_path, case, volume, labels, confidence, STRUCTURES)
    write_dataset_files(tmp_path, STRUCTURES)
    folder = tmp_path / "sub-01" / "ses-b" / "anat"
    stem = "sub-01_ses-b_space-T1w_desc-oflsam2"
    assert {path.name for path in folder.iterdir()} == {
        *(f"{stem}_dseg.nii.gz", f"{stem}_dseg.tsv", f"{stem}_dseg.json"),
        f"{stem}_confidence.nii.gz",
    }
    image = nibabel.load(folder / f"{stem}_dseg.nii.gz")
    np.testing.assert_allclose(image.affine, TURNED, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, labels)
    with open(folder / f"{stem}_dseg.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows == [
        {"index": "1", "name": "liver", "color": "#ff0000"},
        {"index": "7", "name": "spleen", "color": "#00ff80"},
    ]
    description = json.loads((tmp_path / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "oflsam2"
    assert "*_confidence.nii.gz" in (tmp_path / ".bidsignore").read_text().split()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sub-01_T1w", "sub-01_T2w"),
        ("sub-01_run-1_T1w", "sub-01_run-2_T1w"),
        ("sub-01_T1w", "siteA_sub-01_T1w"),
        ("sub-01_unknown-1_T1w", "sub-01_unknown-2_T1w"),
        ("a_1", "a-1"),
        ("a1", "a_1"),
        ("é", "è"),
    ],
)
def test_no_two_cases_share_bids_names(one: str, other: str) -> None:
    first, second = entities_of(CaseInput(one, one)), entities_of(CaseInput(other, other))
    assert first != second
    assert all(value.isalnum() and value.isascii() for value in (*first.values(), *second.values()))


def test_outputs_appear_together_and_are_listed_with_their_sizes(tmp_path: Path) -> None:
    with all_or_none(tmp_path) as staging:
        (staging / "deep").mkdir()
        (staging / "deep" / "a").write_text("12345")
        (staging / "b").write_text("1")
        outputs = written_files(staging)
        assert not (tmp_path / "b").exists()
    assert outputs == {"b": 1, "deep/a": 5}
    assert (tmp_path / "deep" / "a").read_text() == "12345" and (tmp_path / "b").exists()
    assert missing_outputs(tmp_path, outputs) == []
    (tmp_path / "b").write_text("longer")
    (tmp_path / "deep" / "a").unlink()
    assert missing_outputs(tmp_path, outputs) == ["b", "deep/a"]


def test_what_breaks_half_way_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("old")
    with pytest.raises(KeyError), all_or_none(tmp_path) as staging:
        (staging / "b").write_text("new")
        raise KeyError
    assert (tmp_path / "b").read_text() == "old"
    assert not any((tmp_path / ".unfinished").iterdir())


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files the POSIX way")
@pytest.mark.parametrize("layout", [FlatLayout(), BidsLayout()], ids=["flat", "bids"])
def test_a_disk_that_takes_no_more_leaves_no_outputs(tmp_path: Path, layout: FlatLayout) -> None:
    array = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    volume = Volume(array, TURNED, "x")
    with (
        no_file_larger_than(20_000),
        pytest.raises(OFLSAM2Error),
        all_or_none(tmp_path) as staging,
    ):
        case = CaseInput("x", "/data/x.nii.gz")
        layout.write(staging, case, volume, (array > 9).astype(np.uint8), array, STRUCTURES)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


def test_a_case_lists_the_slices_that_segment_lists() -> None:
    volume = Volume(np.zeros((20, 6, 6), np.float32), np.eye(4), "volume")
    outcome = SegmentationBuffer(volume)
    for index in range(20):
        labels = np.ones((6, 6), np.uint8)
        confidence = np.full((6, 6), 100 + 5 * abs(index - 9), np.uint8)
        outcome.add(SliceResult(index, 0, labels, confidence, {"liver": 0.8}))
    listed = [one["index"] for one in judge(outcome, [Structure("liver", 1)])["review"]]
    assert listed == outcome.slices_to_review(5)
    assert all(abs(a - b) > 1 for a, b in itertools.combinations(listed[:2], 2))
