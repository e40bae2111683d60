"""Evaluation on real labels with known errors put in, so that the figures are known beforehand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.slice_geometry import ORIENTATIONS, SliceGeometry
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.datasets import Dataset, sample_data
from OFLSAM2Core.evaluation.evaluate import EvaluatedCase, compare
from OFLSAM2Core.evaluation.phantom import phantom
from OFLSAM2Core.evaluation.pictures import StripContent, sheet, strip
from OFLSAM2Core.evaluation.reliability import calibration_error, check_case, summarise
from OFLSAM2Core.evaluation.report import (
    REPORT_FILES,
    EvaluationReport,
    mean_and_interval,
    strip_of,
)


@pytest.fixture(scope="module")
def case() -> SupportCase:
    return sample_data().read_case("hippocampus_006")


def outcome_of(
    case: SupportCase,
    labels: np.ndarray,
    confidence: np.ndarray | None = None,
    scores: dict[int, dict[str, float]] | None = None,
    axis: int = 1,
) -> SegmentationBuffer:
    """As if the slices of `labels` had arrived along `axis`."""
    outcome = SegmentationBuffer(case.volume)
    if confidence is None:
        confidence = np.full(labels.shape, 255, np.uint8)
    for index in range(labels.shape[axis]):
        outcome.add(
            SliceResult(
                index=index,
                axis=axis,
                labels=labels.take(index, axis).astype(np.uint8),
                confidence=confidence.take(index, axis),
                scores=(scores or {}).get(index, {}),
            )
        )
    return outcome


def report_of(cases: list[EvaluatedCase]) -> EvaluationReport:
    dataset = sample_data()
    about = {"dataset": dataset.name, "support": ["a"], "method": "m", "backbone": "b", "seed": 0}
    report = EvaluationReport(about, dataset.table.structures, "mm")
    for case in cases:
        report.add(case)
    report.complete = True
    return report


# Outcomes


def test_an_outcome_is_what_the_slices_say_whatever_their_order(case):
    outcome = SegmentationBuffer(case.volume)
    assert outcome.slices_total is None
    indices = list(range(case.labels.shape[2]))
    for index in [*indices[10:], *reversed(indices[:10])]:
        plane = case.labels[:, :, index].astype(np.uint8)
        outcome.add(SliceResult(index, 2, plane, np.full_like(plane, 200), {"x": 0.5}))
        assert outcome.is_complete == (index == 0)
    assert np.array_equal(outcome.labels, case.labels)
    assert (outcome.confidence == 200).all()
    assert 0 < outcome.seconds_to_first <= outcome.seconds


def test_a_later_revision_of_a_slice_replaces_the_earlier_one(case):
    outcome = SegmentationBuffer(case.volume)
    shape = case.labels.shape[1:]
    for revision, value in enumerate((1, 2)):
        plane = np.full(shape, value, np.uint8)
        outcome.add(SliceResult(3, 0, plane, plane, {"x": value / 10}, revision))
    assert outcome.slices_done == 1
    assert (outcome.labels[3] == 2).all()
    assert outcome.min_scores() == {3: 0.2}


def test_milliliters_follow_from_the_spacing(case):
    outcome = outcome_of(case, case.labels)
    voxels = np.count_nonzero(case.labels == 1)
    assert outcome.milliliters(1) == pytest.approx(
        voxels * np.prod(case.volume.spacing) / 1000, rel=1e-6
    )


# Reliability


def test_confidence_that_follows_the_truth_is_found_to_do_so(case):
    """Every third slice gets errors; confidence is low where they are, S_cf is the Dice."""
    labels = case.labels.copy()
    labels[:, ::3] = np.roll(labels[:, ::3], 2, axis=0)
    confidence = np.where(labels == case.labels, 255, 0).astype(np.uint8)
    honest = check_case(outcome_of(case, labels, confidence), case.labels, case.structures)
    scores = {check.index: check.dice for check in honest.slices}
    found = summarise(
        [check_case(outcome_of(case, labels, confidence, scores), case.labels, case.structures)]
    )
    assert found["spearman_of_slice_confidence_and_dice"] == pytest.approx(1)
    assert found["calibration_error_near_structures"] == 0
    assert found["calibration_error_whole_volume"] == 0
    # A tenth of the slices, among the third that holds all errors.
    assert found["wrong_voxels_in_least_confident_tenth"] > 0.1
    assert (
        found["wrong_voxels_in_most_doubtful_tenth"]
        >= found["wrong_voxels_in_least_confident_tenth"]
    )
    # Doubt is where the errors are: no order of the slices could find more.
    assert found["wrong_voxels_in_most_doubtful_tenth"] == pytest.approx(
        found["wrong_voxels_in_worst_tenth"]
    )


def test_confidence_turned_upside_down_is_found_out(case):
    labels = case.labels.copy()
    labels[:, ::3] = np.roll(labels[:, ::3], 2, axis=0)
    confidence = np.where(labels == case.labels, 0, 255).astype(np.uint8)
    honest = check_case(outcome_of(case, labels, confidence), case.labels, case.structures)
    scores = {
        check.index: {name: 1 - value for name, value in check.dice.items()}
        for check in honest.slices
    }
    found = summarise(
        [check_case(outcome_of(case, labels, confidence, scores), case.labels, case.structures)]
    )
    assert found["spearman_of_slice_confidence_and_dice"] == pytest.approx(-1)
    assert found["calibration_error_near_structures"] == pytest.approx(1)


def test_calibration_error_is_the_gap_between_confidence_and_share_right():
    counts = np.zeros((2, 256), np.int64)
    counts[:, 204] = 1000, 700  # Said 0.8, right in 0.7.
    assert calibration_error(counts) == pytest.approx(0.1)
    counts[:, 51] = 1000, 200  # Said 0.2, right in 0.2.
    assert calibration_error(counts) == pytest.approx(0.05)
    assert calibration_error(np.zeros((2, 256), np.int64)) is None


def test_a_structure_neither_there_nor_drawn_has_no_dice_in_a_slice(case):
    checked = check_case(outcome_of(case, case.labels), case.labels, case.structures)
    for check in checked.slices:
        plane = case.labels[:, check.index]
        there = {s.name for s in case.structures if (plane == s.label).any()}
        assert set(check.dice) == there
        assert all(value == 1 for value in check.dice.values())
        assert check.wrong == 0


# Report


def test_a_perfect_segmentation_has_mean_dice_one_and_no_distance(case):
    found = compare(case, outcome_of(case, case.labels))
    report = report_of([found]).to_json()
    assert report["summary"]["mean_dice"]["mean"] == 1
    for values in report["summary"]["structures"].values():
        assert values["hd95"]["mean"] == values["assd"]["mean"] == 0
    assert report["summary"]["confidence"]["wrong_voxels_in_least_confident_tenth"] is None


def test_distances_are_in_voxels_where_the_spacing_means_nothing(case):
    stretched = SupportCase(
        type(case.volume)(case.volume.array, np.diag([2.0, 2, 2, 1]), "stretched"),
        case.labels,
        case.structures,
    )
    moved = outcome_of(stretched, np.roll(case.labels, 1, axis=0))
    in_mm = compare(stretched, moved).agreements["anterior hippocampus"]
    in_voxels = compare(stretched, moved, in_voxels=True).agreements["anterior hippocampus"]
    assert in_mm.assd == pytest.approx(2 * in_voxels.assd, rel=1e-5)
    assert in_mm.dice == in_voxels.dice


def test_absent_structures_are_left_out_of_the_mean_and_counted(case):
    without = case.labels.copy()
    without[without == 2] = 0
    truth_without = SupportCase(case.volume, without, case.structures)
    report = report_of(
        [
            compare(case, outcome_of(case, case.labels)),
            compare(truth_without, outcome_of(case, without)),  # Neither there nor drawn.
            compare(case, outcome_of(case, without)),  # There, but not drawn.
        ]
    ).to_json()
    posterior = report["summary"]["structures"]["posterior hippocampus"]
    assert posterior["dice"]["mean"] == pytest.approx((1 + 0) / 2)
    assert (posterior["cases"], posterior["absent"], posterior["without_distance"]) == (2, 1, 1)
    assert report["summary"]["mean_dice"]["mean"] == pytest.approx((1 + 0.5) / 2)


def test_parts_are_counted_where_a_reference_has_several(case, tmp_path):
    truth = case.labels.copy()
    truth[0, 0, 0] = 1  # A second part of the anterior hippocampus, of one voxel.
    two_parts = SupportCase(case.volume, truth, case.structures)
    drawn = case.labels.copy()
    drawn[-1, -1, -1] = 1
    report = report_of(
        [
            compare(two_parts, outcome_of(case, drawn)),  # One of two, and a false one.
            compare(two_parts, outcome_of(case, np.zeros_like(drawn))),  # Nothing.
        ]
    )
    assert report.parts() == {
        "anterior hippocampus": {"recall": 0.25, "precision": 0.5, "false_a_case": 0.5}
    }
    assert "| anterior hippocampus | 0.25 | 0.5 | 0.5 |" in report.to_markdown()
    assert not report_of([compare(case, outcome_of(case, drawn))]).parts()


def test_the_report_is_strict_json_with_a_table_and_a_picture_beside_it(case, tmp_path):
    labels = np.roll(case.labels, 1, axis=0)
    labels[labels == 2] = 0
    report = report_of([compare(case, outcome_of(case, labels))] * 8)
    report.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(REPORT_FILES)
    content = json.loads(
        (tmp_path / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word)
    )
    assert content["complete"] and len(content["cases"]) == 8
    table = (tmp_path / "report.md").read_text()
    assert "| anterior hippocampus |" in table and "HD95 (mm)" in table
    with Image.open(tmp_path / "cases.png") as picture:
        one = strip_of(compare(case, outcome_of(case, labels))).size
        assert picture.size[0] >= one[0] and 6 * one[1] < picture.size[1] < 7 * one[1]


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_cases():
    values = np.random.default_rng(1).normal(0.8, 0.05, (100, 2))
    few, many = mean_and_interval(values[:10]), mean_and_interval(values)
    for found in (few, many):
        assert found["low"] < found["mean"] < found["high"]
    assert many["high"] - many["low"] < 0.6 * (few["high"] - few["low"])
    # The interval of a mean of n values with deviation s is 1.96 s / sqrt(n) to both sides.
    deviation = values.mean(axis=1).std(ddof=1)
    assert many["high"] - many["low"] == pytest.approx(2 * 1.96 * deviation / 10, rel=0.1)
    assert mean_and_interval(values[:1])["low"] is None


# Pictures


def test_a_strip_shows_labels_where_they_are_in_every_slicing_axis(case):
    structures = [s.__class__(s.name, s.label, (0.0, 1.0, 0.0)) for s in case.structures]
    for name in ORIENTATIONS:
        axis = SliceGeometry.for_volume(case.volume, name).axis
        shown = StripContent(case.volume, case.labels, structures, "title", axis=axis)
        drawn = np.asarray(strip(shown), np.int32)
        empty = np.asarray(
            strip(
                StripContent(
                    case.volume, 0 * case.labels, structures, "title", case.labels, axis=axis
                )
            ),
            np.int32,
        )
        assert green(drawn).sum() > 500
        assert green(empty).sum() == 0


def green(picture: np.ndarray) -> np.ndarray:
    return picture[..., 1] > picture[..., [0, 2]].max(axis=-1) + 40


def test_doubtful_voxels_glow_in_the_confidence_row(case):
    certain = np.full(case.labels.shape, 255, np.uint8)
    doubtful = np.where(case.labels == 1, 130, 255).astype(np.uint8)
    red = []
    for confidence in (certain, doubtful):
        shown = StripContent(case.volume, 0 * case.labels, (), "t", case.labels, confidence)
        picture = np.asarray(sheet([strip(shown)], case.structures), np.int32)
        picture = picture[:-40]  # Not the legend.
        red.append(int((picture[..., 0] > picture[..., 2] + 100).sum()))
    assert red[0] == 0 and red[1] > 300


def test_a_volume_with_nothing_in_it_still_makes_a_picture(case):
    picture = strip(StripContent(case.volume, 0 * case.labels, case.structures, "empty"), columns=4)
    assert picture.size[0] > 400


# Data sets


def test_the_sample_data_are_read_with_names_and_geometry():
    dataset = sample_data()
    support, test = dataset.choose(None, None, None)
    assert (len(support), len(test)) == (3, 2)
    case = dataset.read_case(test[0])
    assert [s.name for s in case.structures] == ["anterior hippocampus", "posterior hippocampus"]
    assert set(np.unique(case.labels)) == {0, 1, 2}


def test_support_and_test_cases_are_chosen_as_asked_and_never_overlap():
    dataset = sample_data()
    assert dataset.choose(2, None, 1) == (
        ["hippocampus_001", "hippocampus_003"],
        ["hippocampus_006"],
    )
    assert dataset.choose(None, ["hippocampus_006", "hippocampus_001"], None) == (
        ["hippocampus_006", "hippocampus_001"],
        ["hippocampus_007"],
    )
    for wrong in ((4, None, None), (0, None, None), (None, ["nobody"], None), (None, [], None)):
        with pytest.raises(InputError):
            dataset.choose(*wrong)
    many = replace(dataset, test=tuple(f"case{number}" for number in range(7)))
    assert many.choose(None, None, 2, every=3)[1] == ["case0", "case3"]
    assert many.choose(None, ["case0"], None, every=3)[1] == ["case1", "case4"]
    with pytest.raises(InputError, match="one of 0"):
        many.choose(None, None, None, every=0)
    with pytest.raises(InputError, match="left to segment"):
        dataset.choose(None, ["hippocampus_006", "hippocampus_007"], None)


@pytest.mark.parametrize(
    "content, named",
    [
        (None, "dataset.json"),
        ("{", "not JSON"),
        ("[]", "support"),
        ('{"support": ["a"]}', "'support' and 'test'"),
        ('{"support": ["hippocampus_001"], "test": ["x"], "labels": {"1": "a"}}', "x_image"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_by_name(tmp_path, content, named):
    for path in sample_data().folder.glob("*.nii.gz"):
        shutil.copy(path, tmp_path)
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=named):
        Dataset.open(tmp_path)


# Phantoms


def test_phantoms_hold_every_structure_and_differ_between_seeds():
    one, other = (phantom((12, 64, 96), 3, seed) for seed in (0, 1))
    assert set(np.unique(one.labels)) == {0, 1, 2, 3}
    assert (one.labels != other.labels).any() and one.labels.shape == (12, 64, 96)
    for label in (1, 2, 3):
        inside = one.volume.array[one.labels == label].mean()
        assert inside > one.volume.array[one.labels < label].mean()


def test_importing_the_package_imports_nothing_heavy():
    import subprocess
    import sys

    root = Path(__file__).parents[2]
    code = (
        "import sys, OFLSAM2Core, OFLSAM2Core.data.volume, OFLSAM2Core.data.results, "
        "OFLSAM2Core.data.structures, OFLSAM2Core.worker.client, OFLSAM2Core.worker.protocol\n"
        "print(sorted({'torch', 'sam2', 'openvino', 'SimpleITK', 'monai'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
