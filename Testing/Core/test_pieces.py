"""Pieces: which belong to a structure is learned from the support; the others go."""

from __future__ import annotations

import numpy as np

from OFLSAM2Core.postprocessing.connected_components import (
    adjacent_structures,
    is_single_component,
    spurious_components,
)


def _box(*corner: int, side: int = 6) -> np.ndarray:
    mask = np.zeros((24, 24, 24), bool)
    mask[tuple(slice(start, start + side) for start in corner)] = True
    return mask


WALL = _box(8, 8, 8)
CHAMBER = _box(8, 8, 14)
"""Beside the wall."""
SPLEEN = _box(8, 16, 1, side=7)
"""Larger than the chamber, and beside nothing."""


def _spurious(
    masks: list[np.ndarray], single: list[bool], touched: list[list[int]]
) -> list[np.ndarray]:
    """The spurious voxels of each structure, in the whole volume."""
    found = []
    for each in spurious_components(masks, single, touched):
        whole = np.zeros(masks[0].shape, bool)
        whole[each.box] = each.voxels
        found.append(whole)
    return found


def _labels(*masks: np.ndarray) -> np.ndarray:
    volume = np.zeros(masks[0].shape, np.uint8)
    for value, mask in enumerate(masks, 1):
        volume[mask] = value
    return volume


def test_being_in_one_piece_is_learned_from_every_case_that_has_the_structure() -> None:
    one, pair = _labels(WALL), _labels(WALL | SPLEEN)
    speck = one.copy()
    speck[0, 0, 0] = 1
    assert is_single_component([one, one], 1)
    assert not is_single_component([one, pair], 1)
    assert is_single_component(
        [one, speck], 1
    )  # A stray voxel of the annotator's is no second piece.
    assert is_single_component([one, np.zeros_like(one)], 1)


def test_two_large_pieces_both_stay_and_the_larger_one_of_small_ones() -> None:
    second = _box(1, 1, 1, side=5)
    (gone,) = _spurious([WALL | second], [True], [[]])
    assert not gone.any()
    small = _box(1, 1, 1, side=2)
    (gone,) = _spurious([WALL | small], [True], [[]])
    np.testing.assert_array_equal(gone, small)


def test_a_structure_of_several_pieces_keeps_small_ones() -> None:
    (gone,) = _spurious([WALL | _box(1, 1, 1, side=2)], [False], [[]])
    assert not gone.any()


def test_structures_are_neighbours_that_touch_in_every_case() -> None:
    beside, apart = _labels(WALL, CHAMBER), _labels(WALL, _box(8, 8, 15))
    assert adjacent_structures([beside, beside], [1, 2]) == [[1], [0]]
    assert adjacent_structures([beside, apart], [1, 2]) == [[], []]
    # Cases without one of them say nothing.
    assert adjacent_structures([beside, _labels(WALL)], [1, 2]) == [[1], [0]]
    assert adjacent_structures([_labels(WALL)], [1, 2]) == [[], []]


def test_a_structure_with_a_piece_apart_has_neighbours_only_one_way() -> None:
    assert adjacent_structures([_labels(WALL, CHAMBER | SPLEEN)], [1, 2]) == [[1], []]


def test_a_piece_apart_from_its_neighbour_goes_however_large_it_is() -> None:
    for single in (True, False):
        gone = _spurious([WALL, CHAMBER | SPLEEN], [True, single], [[1], [0]])
        assert not gone[0].any()
        np.testing.assert_array_equal(gone[1], SPLEEN)


def test_a_neighbours_own_stray_holds_nothing() -> None:
    speck = _box(15, 16, 1, side=2)
    gone = _spurious([WALL | speck, CHAMBER | SPLEEN], [True, True], [[1], [0]])
    np.testing.assert_array_equal(gone[0], speck)
    np.testing.assert_array_equal(gone[1], SPLEEN)


def test_where_hardly_anything_touches_the_neighbour_all_stays() -> None:
    speck = _box(8, 8, 14, side=2)
    for wall, drawn in ((np.zeros_like(WALL), CHAMBER | SPLEEN), (WALL, speck | SPLEEN)):
        gone = _spurious([wall, drawn], [True, False], [[1], [0]])
        assert not gone[1].any()
