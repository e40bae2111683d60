"""Structures are drawn from that probability on at which the Dice to be expected is best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from probability_volumes import volume_of
from scipy import ndimage, special
from whole_volumes import segmented

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.postprocessing.confidence import (
    TEMPERATURE,
    slice_confidence,
    soft_label_competition,
)
from OFLSAM2Core.postprocessing.dice_threshold import (
    HALF,
    LEAST,
    dice_optimal_threshold,
    moved_to_half,
)
from OFLSAM2Core.session import FewShotSession


def _organ(peak: float, unsure: float = 2.0) -> npt.NDArray[np.float32]:
    """As likely as `peak` in the middle, less and less around it: (12, 40, 40).

    unsure: over how many pixels.
    """
    ball = np.zeros((12, 40, 40), np.float32)
    ball[4:8, 12:28, 12:28] = 1
    blurred = ndimage.gaussian_filter(ball, (0, unsure, unsure))
    return peak * blurred / blurred.max()


def _counts(probabilities: npt.NDArray) -> npt.NDArray[np.int64]:
    return np.bincount(np.round(255 * probabilities).astype(np.uint8).ravel(), minlength=256)


@pytest.mark.parametrize("peak", [0.55, 0.75, 0.95])
def test_no_other_threshold_has_a_better_dice_if_probabilities_are_true(peak: float) -> None:
    drawn_by = _organ(peak)
    true = special.expit(special.logit(drawn_by.clip(1e-6, 1 - 1e-6)) / TEMPERATURE)
    true[drawn_by < 0.05] = 0
    rng = np.random.default_rng(0)
    truths = [rng.random(true.shape) < true for _ in range(40)]
    steps = range(LEAST, HALF + 1)
    found = [np.mean([dice(truth, drawn_by >= step / 256) for truth in truths]) for step in steps]
    chosen = found[dice_optimal_threshold(_counts(drawn_by)) - LEAST]
    assert chosen > max(found) - 0.005
    assert max(found) > min(found) + 0.01  # It does matter.


def test_what_is_sure_is_drawn_from_one_half_on_and_what_is_not_from_less() -> None:
    found = [dice_optimal_threshold(_counts(_organ(0.999, unsure))) for unsure in (7, 5, 3, 1, 0.5)]
    assert found == sorted(found)
    assert found[0] < found[1] < HALF and found[-1] == HALF
    sure = np.zeros((4, 20, 20), np.float32)
    sure[:, 5:15, 5:15] = 1
    assert dice_optimal_threshold(_counts(sure)) == HALF


def test_what_is_hardly_likely_is_not_drawn() -> None:
    faint = volume_of(
        _organ(0.19), np.zeros((12, 40, 40), np.float32)
    ).with_dice_optimal_thresholds()
    assert not faint.areas().any()


def test_only_structures_that_are_asked_for_are_drawn_from_another_probability_on() -> None:
    organs = volume_of(_organ(0.45), _organ(0.45))
    both, second = (
        organs.with_dice_optimal_thresholds(which) for which in (True, np.array([False, True]))
    )
    assert float(both.thresholds[0]) < 0.45
    assert second.thresholds.tolist() == [organs.thresholds[0], both.thresholds[1]]


def test_probabilities_at_the_threshold_become_one_half() -> None:
    probabilities = torch.linspace(0, 1, 11).repeat(2, 1)[:, None]
    moved = moved_to_half(probabilities, torch.tensor([0.3, 0.5])[:, None, None])
    assert moved[0, 0, 3] == pytest.approx(0.5)
    assert bool((moved.diff(dim=-1) > 0).all())
    torch.testing.assert_close(moved[1], probabilities[1])


def test_a_structure_that_is_not_sure_anywhere_is_drawn_without_its_strays() -> None:
    organ = _organ(0.45)
    stray = organ.copy()
    stray[4:6, 2:4, 2:4] = 0.4
    before = volume_of(stray)
    drawn = before.with_dice_optimal_thresholds()
    assert not before.areas().any() and drawn.areas().any()
    alone = volume_of(organ).with_dice_optimal_thresholds().areas()
    np.testing.assert_array_equal(drawn.without_spurious_components([True], [[]]).areas(), alone)
    assert (drawn.areas() > alone).any()


def test_a_stray_that_was_background_before_stays_as_likely_as_it_was() -> None:
    organ = _organ(0.45)
    organ[4:6, 2:4, 2:4] = 0.3
    drawn = volume_of(organ).with_dice_optimal_thresholds()
    assert float(drawn.thresholds[0]) < 0.3
    left = drawn.without_spurious_components([True], [[]])
    stray = left.slice(4, torch.device("cpu"))[0, 2:4, 2:4]
    assert float(stray.max()) < float(left.thresholds[0]) <= float(stray.min()) + 0.01


def test_confidence_in_a_slice_is_the_dice_to_be_expected_of_what_is_drawn() -> None:
    organ = torch.from_numpy(_organ(0.45)[6])[None]

    def drawn_from(threshold: float) -> float:
        decisive = moved_to_half(organ, torch.tensor(threshold))
        drawn = organ > threshold
        wanted = 2 * organ[drawn].sum() / (drawn.sum() + organ[organ > 0.05].sum())
        found = float(
            slice_confidence(soft_label_competition(organ), soft_label_competition(decisive))
        )
        assert found == pytest.approx(float(wanted), abs=1e-3)
        return found

    assert drawn_from(0.4) < drawn_from(0.2)
    # Where nothing is drawn, how far it is from being drawn counts.
    nearly, far = (
        float(slice_confidence(soft_label_competition(organ), soft_label_competition(decisive)))
        for decisive in (moved_to_half(organ, torch.tensor(each)) for each in (0.46, 0.8))
    )
    assert nearly == pytest.approx(0.51, abs=0.02)
    assert far > 0.8


@pytest.mark.slow
def test_more_is_drawn_of_a_volume_and_confidence_says_how_likely_it_is(
    cases: Path, task: Path
) -> None:
    session = FewShotSession("litemedsam", "cpu")
    learned = LearnedTask.load(task)
    data = Dataset.open(cases)
    case = data.read_case(data.test[0])
    labels, confidence = segmented(session, learned, case)
    plain = FewShotSession(session.backbone, options=dict(dice_optimal_threshold=False))
    before, confidence_before = segmented(plain, learned, case)
    added = (labels > 0) & (before == 0)
    assert added.any()
    assert confidence[added].max() < 128
    same = labels == before
    np.testing.assert_array_equal(confidence[same], confidence_before[same])
