"""Sequences: read from a folder, some frames learned from, the others measured by J and F."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from surgical_sequence import write
from toy_mask_backbone import ToyMaskBackbone

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.evaluate import EvaluatedCase, Learned, evaluate
from OFLSAM2Core.evaluation.report import EvaluationReport
from OFLSAM2Core.evaluation.sequences import (
    boundary_accuracy,
    frame_agreement,
    region_similarity,
    split_sequence,
)
from OFLSAM2Core.session import FewShotSession

FRAMES = 8


def _square(row: int, column: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[row : row + side, column : column + side] = True
    return mask


def test_region_similarity_is_intersection_over_union() -> None:
    truth = _square(10, 10)
    assert region_similarity(truth, truth) == 1
    assert region_similarity(truth, _square(10, 20)) == pytest.approx(200 / 600)
    assert region_similarity(truth, _square(10, 40)) == 0
    nothing = np.zeros_like(truth)
    assert region_similarity(nothing, nothing) == 1


def test_boundaries_within_a_hundredth_of_the_diagonal_are_met() -> None:
    truth = _square(10, 10)  # 0.8 % of 100 pixels: one pixel.
    assert boundary_accuracy(truth, truth) == 1
    assert boundary_accuracy(truth, _square(11, 10)) == 1
    # Two pixels off: of 76 pixels of each contour the 2 x 18 along the way are met, and 2 x 1 ends.
    assert 0.45 < boundary_accuracy(truth, _square(12, 10)) < 0.55
    assert boundary_accuracy(truth, _square(30, 50)) == 0
    nothing = np.zeros_like(truth)
    assert boundary_accuracy(nothing, nothing) == 1
    assert boundary_accuracy(truth, nothing) == boundary_accuracy(nothing, truth) == 0
    everything = np.ones_like(truth)
    assert boundary_accuracy(everything, everything) == 1  # A frame's border bounds nothing.


def test_a_sequence_has_the_means_of_its_frames() -> None:
    truth = np.stack([_square(10, 10), _square(10, 10)])
    found = frame_agreement(truth, np.stack([_square(10, 10), _square(30, 50)]))
    assert (found.region, found.boundary) == (0.5, 0.5)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A bright square that moves over dark frames; stored as DAVIS is."""
    folder = tmp_path / "video"
    for kind in ("frames", "masks"):
        (folder / kind / "square").mkdir(parents=True)
    for number in range(FRAMES):
        mask = _square(10 + number, 10 + 3 * number)
        frame = np.where(mask[..., None], (220, 180, 40), (20, 40, 60)).astype(np.uint8)
        Image.fromarray(frame).save(folder / "frames" / "square" / f"{number:05}.jpg")
        Image.fromarray(255 * mask.astype(np.uint8)).save(
            folder / "masks" / "square" / f"{number:05}.png"
        )
    content = {"name": "video", "labels": {"1": "object"}, "sequences": ["square"]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_frames_to_learn_from_are_spread_over_a_sequence_and_not_segmented(dataset: Path) -> None:
    case = Dataset.open(dataset).read_case("square")
    assert case.volume.is_sequence and len(case.labels) == FRAMES
    for percent, chosen in ((5, [0]), (25, [0, 4]), (50, [0, 2, 4, 6])):
        learned, others = split_sequence(case, percent)
        rest = [index for index in range(FRAMES) if index not in chosen]
        for part, wanted in ((learned, chosen), (others, rest)):
            assert np.array_equal(part.volume.array, case.volume.array[wanted])
            assert np.array_equal(part.labels, case.labels[wanted])
    with pytest.raises(InputError, match="leave none"):
        split_sequence(case, 99)


def test_a_folder_of_sequences_is_evaluated(dataset: Path) -> None:
    opened = Dataset.open(dataset)
    support, test = opened.choose(None, None, None)
    assert (support, test) == ([], ["square"])
    with pytest.raises(InputError, match="sequences"):
        opened.choose(1, None, None)
    session = FewShotSession(
        Sam2Backbone.random(seed=3, image_size=64),
        method="support-matching",
        options={"augmented_copies": 0},
    )
    learned, case = evaluate(session, opened, support, test, support_percent=25)
    assert isinstance(learned, Learned) and learned.support == "2 frames of square"
    assert isinstance(case, EvaluatedCase) and len(case.truth.labels) == FRAMES - 2
    masks = (labels == 1 for labels in (case.truth.labels, case.outcome.labels))
    assert case.frames == {"object": frame_agreement(*masks)}
    about = {"dataset": "video", "support": [], "support_percent": 25.0}
    report = EvaluationReport(about, opened.table.structures, "voxel")
    report.add(case)
    (told,) = report.to_json()["cases"]
    assert told["frames"]["object"]["region"] == pytest.approx(
        case.frames["object"].region, abs=1e-5
    )
    assert told["frames_per_second"] > 0
    text = report.to_markdown()
    assert "25 % of the frames" in text and "| sequence | structure | J | F |" in text


@pytest.mark.parametrize(
    "method", ["ofl-sam2", "sam2-mask-prompt", "fs-medsam2", "fate-sam2", "support-matching"]
)
def test_instruments_that_leave_and_come_back_are_followed_through_surgery(
    method: str, tmp_path: Path
) -> None:
    options = {"training_steps": 60, "learning_rate": 1e-2} if method == "ofl-sam2" else {}
    session = FewShotSession(ToyMaskBackbone(), method=method, options=options)
    opened = Dataset.open(write(tmp_path / "surgery"))
    _, case = evaluate(session, opened, [], ["surgery"], support_percent=10)
    assert isinstance(case, EvaluatedCase) and len(case.truth.labels) == 22
    away = (case.truth.labels == 2).sum(axis=(1, 2)) < 100
    assert 0 < away.sum() < 11
    for name in ("left instrument", "right instrument"):
        assert case.frames[name].region > 0.5, (name, case.frames[name])


def test_a_sequence_without_masks_is_refused_by_its_name(dataset: Path) -> None:
    (dataset / "masks" / "square").rename(dataset / "masks" / "circle")
    with pytest.raises(InputError, match="'square'"):
        Dataset.open(dataset)
