"""Mirrored copies: where the support shows that both sides are alike, and only there."""

from __future__ import annotations

import numpy as np

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.methods.common.bilateral_symmetry import flip_left_right, symmetric_label_map
from OFLSAM2Core.preprocessing.preprocessing import Preprocessing
from OFLSAM2Core.preprocessing.support_stack import SupportStack

SHAPE = (16, 64, 80)


def _ball(level: float, row: float, column: float, radius: float) -> np.ndarray:
    levels, rows, columns = np.indices(SHAPE)
    away = (2 * (levels - level)) ** 2 + (rows - row) ** 2 + (columns - column) ** 2
    return away < radius**2


def _gland(size: float, shift: float) -> np.ndarray:
    """In the middle, but for a shift."""
    return _ball(8, 30, 39.5 + shift, size)


def _side_gland(size: float, shift: float, side: int) -> np.ndarray:
    return _ball(9, 34, 39.5 + shift + 18 * side, 0.6 * size)


def _case(*masks: np.ndarray, unlabelled: np.ndarray | bool = False) -> SupportCase:
    labels = np.zeros(SHAPE, np.uint8)
    for value, mask in enumerate(masks, 1):
        labels[mask] = value
    rng = np.random.default_rng(int(labels.sum()))
    image = (200.0 * ((labels > 0) | unlabelled) + rng.normal(300, 20, SHAPE)).astype(np.float32)
    structures = tuple(Structure(f"structure {n}", n) for n in range(1, len(masks) + 1))
    return SupportCase(Volume(image, np.eye(4), "made up"), labels, structures)


def _one_of_two(size: float, shift: float) -> SupportCase:
    """Two like glands, of which one is meant."""
    left, right = (_side_gland(size, shift, side) for side in (-1, 1))
    return _case(right, unlabelled=left)


def _partners(cases: list[SupportCase], axis: str = "axial") -> list[int] | None:
    slicings = [SliceGeometry.for_volume(case.volume, axis) for case in cases]
    preparation = Preprocessing.fit(cases, slicings, size=128)
    support = [
        SupportStack(
            "case",
            preparation.transform(case.volume, slicing),
            slicing,
            slicing.to_slices(case.labels),
        )
        for case, slicing in zip(cases, slicings, strict=True)
    ]
    found = symmetric_label_map(support, cases[0].structures)
    return None if found is None else found.tolist()


SIZES_AND_SHIFTS = [(12.0, 2.0), (10.0, -1.0), (11.0, 1.0)]


def test_a_gland_in_the_middle_is_alike_in_a_mirror() -> None:
    cases = [_case(_gland(*each)) for each in SIZES_AND_SHIFTS]
    assert _partners(cases) == [0]
    assert _partners(cases, "coronal") == [0]


def test_from_front_to_back_there_is_no_mirror() -> None:
    assert _partners([_case(_gland(*each)) for each in SIZES_AND_SHIFTS], "sagittal") is None


def test_the_left_gland_is_the_right_one_in_a_mirror() -> None:
    cases = [
        _case(_side_gland(*each, -1), _gland(*each), _side_gland(*each, 1))
        for each in SIZES_AND_SHIFTS
    ]
    assert _partners(cases) == [2, 1, 0]


def test_one_of_two_like_glands_is_not_alike_in_a_mirror() -> None:
    """However round: the other one would be on its other side then."""
    assert _partners([_one_of_two(*each) for each in SIZES_AND_SHIFTS]) is None


def test_a_structure_of_which_more_is_on_one_side_is_not_alike_in_a_mirror() -> None:
    """Whatever the image shows."""
    cases = []
    for size, shift in SIZES_AND_SHIFTS:
        whole = _gland(size, shift)
        _, rows, columns = np.indices(SHAPE)
        upper_right = (rows < 30) & (columns > 39.5 + shift)
        cases.append(_case(whole & ~upper_right, unlabelled=whole))
    assert _partners(cases) is None


def test_hippocampi_are_not_alike_in_a_mirror() -> None:
    assert _partners([sample_data().read_case(name) for name in sample_data().support]) is None


def test_a_single_case_does_not_show_how_alike_another_is() -> None:
    assert _partners([_case(_gland(12.0, 0.0))]) is None


def test_masks_are_mirrored_with_the_image_and_a_second_time_back_again() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((3, 8, 8), np.float32)
    masks = np.stack([image[0] > 0.7, image[0] < 0.3, image[0] > 0.5]).astype(np.float32)
    partners = np.array([1, 0, 2])
    turned_image, turned = flip_left_right(image, masks, partners)
    np.testing.assert_array_equal(turned[2], turned_image[0] > 0.5)
    np.testing.assert_array_equal(turned[1], turned_image[0] > 0.7)
    for found, before in zip(
        flip_left_right(turned_image, turned, partners), (image, masks), strict=True
    ):
        np.testing.assert_array_equal(found, before)
