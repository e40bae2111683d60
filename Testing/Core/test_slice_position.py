"""Slice positions refined by what was predicted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionScale


def _ball(count: int, spacing: float, middle: float, half: float) -> npt.NDArray[np.float64]:
    """Areas of a ball's slices."""
    position = (np.arange(count) * spacing - middle) / half
    return 1000 * np.clip(1 - position**2, 0, None)


SUPPORT = [(40, 2.0, 36.0, 25.0), (60, 1.5, 50.0, 30.0)]


def _extents() -> StructureExtents:
    return StructureExtents.from_support(
        [_ball(*case)[None] for case in SUPPORT],
        [spacing for _, spacing, _, _ in SUPPORT],
        [PositionScale(middle, half) for _, _, middle, half in SUPPORT],
    )


def test_slice_positions_are_refined_wherever_a_structure_lies_and_however_large_it_is() -> None:
    for middle, half in ((40.0, 25.0), (55.0, 28.0), (61.0, 35.0)):
        predicted = _ball(100, 1.0, middle, half)[None]
        scale = _extents().scale(predicted, 1.0, PositionScale(48.0, 27.0))
        assert scale.middle == pytest.approx(middle, abs=1.0)
        assert scale.half == pytest.approx(half, rel=0.06)


def test_what_goes_on_beyond_the_volume_does_not_move_slice_positions() -> None:
    found = PositionScale(48.0, 27.0)
    cut = _ball(100, 1.0, 40.0, 22.0)[None, :50]
    assert _extents().scale(cut, 1.0, found) == found
    assert _extents().scale(np.zeros((1, 50)), 1.0, found) == found


def test_the_ends_that_a_short_volume_still_shows_are_enough() -> None:
    both = np.stack([_ball(80, 1.0, 40.0, 30.0), _ball(80, 1.0, 45.0, 12.0)])
    extents = StructureExtents.from_support([both], [1.0], [PositionScale(40.0, 30.0)])
    scale = extents.scale(both[:, 20:65], 1.0, PositionScale(25.0, 24.0))
    assert scale.middle == pytest.approx(20.0, abs=0.5)
    assert scale.half == pytest.approx(30.0, rel=0.05)


def test_a_height_that_cannot_be_is_not_trusted() -> None:
    found = PositionScale(48.0, 27.0)
    assert _extents().scale(_ball(100, 1.0, 50.0, 4.0)[None], 1.0, found) == found


@pytest.mark.parametrize("predicted_half", [15.0, 22.0])
def test_what_is_predicted_too_low_shrinks_a_volume_by_a_tenth_at_most(
    predicted_half: float,
) -> None:
    scale = _extents().scale(
        _ball(100, 1.0, 40.0, predicted_half)[None], 1.0, PositionScale(48.0, 27.0)
    )
    assert scale.half == pytest.approx(0.9 * 27.0)
    assert scale.middle == pytest.approx(40.0, abs=1.0)


def test_its_middle_is_then_where_the_middle_of_what_was_predicted_says() -> None:
    upper_half = StructureExtents(np.array([[-1.0, 0.0]]))
    predicted = np.zeros((1, 100))
    predicted[0, 30:46] = 500
    scale = upper_half.scale(predicted, 1.0, PositionScale(48.0, 27.0))
    assert scale.half == pytest.approx(0.9 * 27.0)
    assert scale.slice_position(37.5) == pytest.approx(-0.5, abs=0.05)


def test_structures_are_expected_where_those_of_the_support_are() -> None:
    first, last = _extents().ends[0]
    positions = np.linspace(-2, 2, 41)
    there = _extents().there(positions, 0.3)[0]
    assert there[20] > 0.99 and there[0] < 0.01 and there[-1] < 0.01
    np.testing.assert_allclose(
        np.interp([first - 0.05, last + 0.05], positions, there), 0.5, atol=0.01
    )
    np.testing.assert_allclose(there, there[::-1], atol=0.03)


def test_nothing_is_expected_of_a_structure_whose_end_no_case_shows() -> None:
    both = np.stack([_ball(40, 1.0, 5.0, 20.0), _ball(40, 1.0, 20.0, 12.0)])
    extents = StructureExtents.from_support([both], [1.0], [PositionScale(20.0, 20.0)])
    open_ended, closed = extents.there(np.linspace(-1, 1, 40), 0.3)
    assert (open_ended == 0).all() and closed.max() > 0.9
