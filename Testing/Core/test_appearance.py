"""How bright structures are where they were drawn says which voxels beside them are theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from probability_volumes import volume_of
from scipy import ndimage

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.postprocessing.intensity_likelihood import BESIDE
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume

CPU = torch.device("cpu")
Drawn = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def _ball() -> Drawn:
    """Intensities, a ball two pixels beside where it is, blurred, and where it is."""
    at = np.mgrid[:12, :40, :40]
    ball = (at[0] - 6) ** 2 * 4 + (at[1] - 20) ** 2 + (at[2] - 20) ** 2 < 100
    noise = np.random.default_rng(0).normal(size=ball.shape)
    beside = ndimage.shift(ball.astype(np.float32), (0, 2, 0), order=1)
    drawn = ndimage.gaussian_filter(beside, (0, 2, 2)).clip(0, 1)
    return (500 + 100 * ball + 30 * noise).astype(np.float32), drawn, ball


def _values(volume: ProbabilityVolume) -> npt.NDArray[np.float32]:
    """(N, slices, rows, columns)"""
    return np.stack([volume.slice(i, CPU).numpy() for i in range(volume.count)], axis=1)


def _judged(
    stack: npt.NDArray, *structures: npt.NDArray, touching: bool = False
) -> npt.NDArray[np.float32]:
    numbers = range(len(structures))
    touched = [[other for other in numbers if touching and other != own] for own in numbers]
    return _values(volume_of(*structures).with_intensity_likelihood(stack, touched))


def test_a_structure_drawn_beside_its_place_comes_nearer_to_it() -> None:
    stack, drawn, ball = _ball()
    (judged,) = _judged(stack, drawn)
    assert dice(ball, drawn > 0.5) < 0.86
    assert dice(ball, judged > 0.5) > 0.95


@pytest.mark.parametrize("number", ["001", "003", "004", "006", "007"])
def test_real_hippocampi_drawn_beside_their_places_come_nearer_to_them(number: str) -> None:
    case = sample_data().read_case(f"hippocampus_{number}")
    truth = [case.labels == structure.label for structure in case.structures]
    drawn = [
        ndimage.gaussian_filter(ndimage.shift(mask.astype(np.float32), (0, 1.5, 1.5), order=1), 1)
        for mask in truth
    ]
    judged = _judged(case.volume.array, *drawn, touching=True)
    before, after = (
        np.mean([dice(mask, own > 0.5) for mask, own in zip(truth, each, strict=True)])
        for each in (drawn, judged)
    )
    assert after > before + 0.01


@pytest.mark.parametrize("change", [lambda x: 3 * x - 2000, lambda x: x**3], ids=["line", "cube"])
def test_unit_and_curve_of_intensities_do_not_matter(
    change: Callable[[npt.NDArray], npt.NDArray],
) -> None:
    stack, drawn, _ = _ball()
    whole_numbers = np.round(stack).astype(np.float64)
    expected = _judged(whole_numbers, drawn)
    np.testing.assert_array_equal(_judged(change(whole_numbers), drawn), expected)
    # Dark structures in bright surroundings are found as well; bins may be cut a voxel elsewhere.
    np.testing.assert_allclose(_judged(-whole_numbers, drawn), expected, atol=0.1)


def test_where_all_is_equally_bright_nothing_changes() -> None:
    _, drawn, _ = _ball()
    judged = _judged(np.full(drawn.shape, 7, np.int16), drawn)
    np.testing.assert_allclose(judged[0], drawn, atol=0.5 / 255)


def test_only_near_a_structure_does_anything_change() -> None:
    stack, drawn, _ = _ball()
    changed = np.abs(_judged(stack, drawn)[0] - drawn) > 1 / 255
    size = (1, 2 * BESIDE + 1, 2 * BESIDE + 1)
    assert changed.any()
    assert not changed[~ndimage.maximum_filter(drawn > 0.3, size)].any()


def test_a_structure_that_is_nowhere_stays_nowhere() -> None:
    stack, drawn, _ = _ball()
    alone = _judged(stack, drawn)[0]
    both = _judged(stack, drawn, np.zeros_like(drawn))
    assert not both[1].any()
    np.testing.assert_array_equal(both[0], alone)


def _halves() -> tuple[npt.NDArray, list[npt.NDArray], list[npt.NDArray[np.bool_]]]:
    stack, drawn, ball = _ball()
    upper = np.arange(40)[:, None] < 20
    return stack, [drawn * upper, drawn * ~upper], [ball & upper, ball & ~upper]


@pytest.mark.parametrize("touching", [True, False])
def test_another_structure_is_no_background(touching: bool) -> None:
    """As bright as the first, it does not make the first less likely."""
    stack, drawn, truth = _halves()
    for half, own in zip(truth, _judged(stack, *drawn, touching=touching), strict=True):
        assert dice(half, own > 0.5) > 0.9


def test_the_parts_of_a_structure_end_where_it_would_as_a_whole() -> None:
    stack, drawn, _ = _halves()
    parts = _judged(stack, *drawn, touching=True).max(axis=0)
    (whole,) = _judged(stack, sum(drawn))
    assert dice(whole > 0.5, parts > 0.5) > 0.98
