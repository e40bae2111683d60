"""Consistency in 3D: flicker between slices goes, thick slices and second pieces stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from OFLSAM2Core.postprocessing.probability_volume import (
    ProbabilityVolume,
    axial_sigma,
    structure_width,
)

CPU = torch.device("cpu")


def _ball(
    count: int = 24, size: int = 24, centre: tuple[int, int, int] = (12, 12, 12)
) -> np.ndarray:
    grid = np.mgrid[:count, :size, :size]
    away = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True))
    return (away < 49).astype(np.float32)


def _filled(*structures: np.ndarray) -> ProbabilityVolume:
    return ProbabilityVolume.of_slices(
        torch.from_numpy(np.stack(structures, axis=1)), len(structures[0])
    )


def _labels(volume: ProbabilityVolume, count: int) -> np.ndarray:
    return np.stack([volume.slice(index, CPU).numpy() > 0.5 for index in range(count)], axis=1)


def test_probabilities_come_back_to_within_one_byte() -> None:
    values = np.random.default_rng(0).random((5, 8, 8), dtype=np.float32)
    volume = _filled(values)
    for index in range(5):
        np.testing.assert_allclose(volume.slice(index, CPU)[0], values[index], atol=0.5 / 255)


def test_a_slice_that_was_missed_is_filled_from_its_neighbours() -> None:
    flickering = _ball()
    flickering[12] = 0
    smooth = _labels(_filled(flickering).smoothed([40.0], spacing=1.0), 24)[0]
    truth = _ball()[12] > 0
    assert (smooth[12] & truth).sum() > 0.75 * truth.sum()


def test_slices_ten_millimetres_apart_are_left_alone() -> None:
    ball = _ball()
    ball[12] = 0
    smooth = _labels(_filled(ball).smoothed([40.0], 10.0), 24)[0]
    assert not smooth[12].any()
    assert (smooth != (ball > 0)).sum() < 0.05 * (ball > 0).sum()


def test_a_sure_slice_counts_for_more_than_hesitant_neighbours() -> None:
    hesitant = 0.45 * np.ones((9, 8, 8), np.float32)
    hesitant[4] = 1
    assert _labels(_filled(hesitant).smoothed([40.0], 1.0), 9)[0][3:6].all()


def test_thin_structures_are_averaged_along_the_body_over_less_than_wide_ones() -> None:
    assert axial_sigma(44, spacing=0.6) == 1.5
    assert axial_sigma(8, spacing=0.6) == pytest.approx(0.48)


def test_where_slices_are_far_apart_wide_structures_are_averaged_over_one() -> None:
    assert axial_sigma(50, spacing=2.2) == 2.2
    assert axial_sigma(50, spacing=10) == pytest.approx(3)


def test_the_width_of_a_structure_is_that_of_its_largest_slice_in_any_case_in_mm() -> None:
    wide, thin, absent = (np.array([0, side**2, 0]) for side in (44, 8, 0))
    assert structure_width([wide, absent], [1.0, 1.0]) == 44
    assert structure_width([thin, thin], [1.0, 4.0]) == 16


def test_pieces_that_do_not_belong_become_background_and_others_stay_as_they_are() -> None:
    ball = _ball(centre=(12, 8, 8))
    two = 0.8 * ball
    two[3:5, 20:22, 20:22] = 0.9
    volume = _filled(two, two)
    volume.remove_spurious_components([True, False], [[], []])
    cleared, untouched = np.stack([volume.slice(i, CPU).numpy() for i in range(24)], axis=1)
    np.testing.assert_allclose(cleared, 0.8 * ball, atol=0.01)
    np.testing.assert_allclose(untouched, two, atol=0.01)
