"""Parts of a structure are counted one by one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.evaluation.parts import PartAgreement, count_parts


def _with(*boxes: tuple[slice, slice, slice]) -> npt.NDArray[np.bool_]:
    mask = np.zeros((12, 20, 20), bool)
    for box in boxes:
        mask[box] = True
    return mask


LARGE = np.s_[2:8, 2:10, 2:10]
SMALL = np.s_[3:4, 15:16, 15:16]
FAR = np.s_[10:12, 0:2, 17:20]


def test_a_missed_lesion_of_one_voxel_counts_as_much_as_a_large_one() -> None:
    found = count_parts(_with(LARGE, SMALL), _with(LARGE))
    assert found == PartAgreement(true=2, found=1, predicted=1, false=0)
    assert (found.recall, found.precision) == (0.5, 1.0)


def test_a_part_where_the_reference_has_nothing_is_false() -> None:
    found = count_parts(_with(LARGE), _with(LARGE, SMALL, FAR))
    assert (found.false, found.recall) == (2, 1.0)
    assert math.isclose(found.precision, 1 / 3)


def test_two_parts_that_the_segmentation_joins_are_both_found_and_none_is_false() -> None:
    between = np.s_[3:4, 5:16, 5:16]
    found = count_parts(_with(LARGE, SMALL), _with(LARGE, between))
    assert found == PartAgreement(true=2, found=2, predicted=1, false=0)


def test_voxels_that_share_a_corner_are_one_part() -> None:
    diagonal = np.zeros((4, 4, 4), bool)
    diagonal[np.arange(4), np.arange(4), np.arange(4)] = True
    assert count_parts(diagonal, diagonal).true == 1


def test_where_one_mask_is_empty_its_share_is_not_a_number() -> None:
    nothing = np.zeros((4, 4, 4), bool)
    assert math.isnan(count_parts(nothing, ~nothing).recall)
    assert math.isnan(count_parts(~nothing, nothing).precision)
    assert count_parts(nothing, ~nothing).false == 1
