"""MR volumes are as bright near structures as one of the support cases, where that tells more."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.preprocessing.intensity_bounds import ROOM, RoiIntensityBounds
from OFLSAM2Core.preprocessing.intensity_mapping import percentile_window
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume, Preprocessing

MIDDLE = (slice(4, 16), slice(24, 40), slice(24, 40))


def _tissue(seed: int = 0) -> NDArray[np.float32]:
    """A structure of 400 in tissue of 100 to 300."""
    rng = np.random.default_rng(seed)
    array = rng.uniform(100, 300, (20, 64, 64)).astype(np.float32)
    array[MIDDLE] = rng.normal(400, 10, array[MIDDLE].shape)
    return array


def _with_a_coil(array: NDArray[np.float32], factor: float = 2) -> NDArray[np.float32]:
    """So much brighter at one edge, far from the structure."""
    result = array.copy()
    result[:, :, :4] *= factor
    return result


def _case(array: NDArray[np.float32]) -> SupportCase:
    labels = np.zeros(array.shape, np.uint8)
    labels[MIDDLE] = 1
    return SupportCase(Volume(array, np.eye(4), "made"), labels, (Structure("thing", 1),))


def _learned(*cases: SupportCase) -> Preprocessing:
    slicings = [SliceGeometry.for_volume(case.volume) for case in cases]
    return Preprocessing.fit(cases, slicings)


@pytest.fixture(scope="module")
def preparation() -> Preprocessing:
    """Learned from two cases of the same brightness, except far from the structure."""
    return _learned(_case(_tissue(1)), _case(_with_a_coil(_tissue(2))))


def _prepared(preparation: Preprocessing, case: SupportCase) -> PreprocessedVolume:
    return preparation.transform(case.volume, SliceGeometry.for_volume(case.volume))


def _grey(prepared: PreprocessedVolume, case: SupportCase) -> float:
    """Mean grey value of the structure."""
    labels = SliceGeometry.for_volume(case.volume).to_slices(case.labels)
    middle = len(labels) // 2
    return float(prepared.grey(middle)[0][labels[middle] > 0].mean())


def test_support_cases_are_scaled_by_their_own_percentiles() -> None:
    cases = [_case(_tissue()), _case(_with_a_coil(_tissue(1))), _case(3 * _tissue(2) + 50)]
    preparation = _learned(*cases)
    assert preparation.brightness is not None
    for case in cases:
        prepared = _prepared(preparation, case)
        assert prepared.curve == percentile_window(prepared.stack)


def test_a_structure_is_as_bright_as_in_one_of_the_support_cases(
    preparation: Preprocessing,
) -> None:
    def grey(array: NDArray[np.float32]) -> float:
        case = _case(array)
        return _grey(_prepared(preparation, case), case)

    lightest, darkest = grey(_tissue(1)), grey(_with_a_coil(_tissue(2)))
    assert darkest < 0.8 * lightest
    # A coil brighter than any of theirs.
    assert grey(_with_a_coil(_tissue(), 5)) == pytest.approx(darkest, rel=0.02)
    # Between, it is as bright as it comes.
    case = _case(_with_a_coil(_tissue(), 1.6))
    prepared = _prepared(preparation, case)
    assert darkest < _grey(prepared, case) < lightest
    assert prepared.curve == percentile_window(prepared.stack)


def test_a_volume_brighter_near_structures_than_all_is_made_darker() -> None:
    coils = [_case(_with_a_coil(_tissue(seed), 1.5 + seed)) for seed in (1, 2)]
    preparation, plain = _learned(*coils), _case(_tissue())
    lightest = _grey(_prepared(preparation, coils[0]), coils[0])
    by_itself = replace(preparation, brightness=None)
    assert _grey(_prepared(by_itself, plain), plain) > 1.2 * lightest
    assert _grey(_prepared(preparation, plain), plain) == pytest.approx(lightest, rel=0.02)


def test_white_comes_at_most_three_times_nearer_to_black(preparation: Preprocessing) -> None:
    dark = _tissue()
    dark[:, 16:48, 16:48] /= 10
    for array in (_with_a_coil(_tissue(), 20), dark):
        prepared = _prepared(preparation, _case(array))
        (black, white), _ = prepared.curve
        (_, own), _ = percentile_window(prepared.stack)
        assert white - black == pytest.approx((own - black) / 3)


def test_it_is_used_only_where_structures_are_more_alike_by_it() -> None:
    coil = _case(_with_a_coil(_tissue(2)))
    assert _learned(_case(_tissue(1)), coil).brightness is not None
    # What is around the structure differs, and what is far from it does not.
    beside = _tissue(2)
    beside[:, 20:44, 20:24] *= 4
    alike = [_case(_with_a_coil(each)) for each in (_tissue(1), beside)]
    assert _learned(*alike).brightness is None
    # No difference, or one case only: nothing to tell by.
    assert _learned(_case(_tissue(1)), _case(_tissue(1))).brightness is None
    assert _learned(coil).brightness is None


def test_the_scale_and_offset_of_a_volume_do_not_matter(preparation: Preprocessing) -> None:
    one, another = (
        _prepared(preparation, _case(array)).image(10) for array in (_tissue(), 7 * _tissue() - 300)
    )
    np.testing.assert_allclose(one, another, atol=1e-4)


def test_where_structures_are_is_found_at_another_size_and_field_of_view(
    preparation: Preprocessing,
) -> None:
    array = _with_a_coil(_tissue(), 5)
    fine = array.repeat(2, axis=1).repeat(2, axis=2)
    close = array[:, :, :-8].copy()  # Its middle is farther left.
    near = (slice(None), slice(21, 43), slice(21, 43))
    for found, side, place in (
        (array, 1.0, near),
        (fine, 0.5, (slice(None), slice(42, 86), slice(42, 86))),
        (close, 1.0, (slice(None), slice(21, 43), slice(17, 39))),
    ):
        volume = Volume(found, np.diag([side, side, 1, 1]), "target")
        prepared = preparation.transform(volume, SliceGeometry.for_volume(volume))
        (black, white), _ = prepared.curve
        assert preparation.brightness is not None
        bright = np.percentile(found[place], 95) - black
        most = preparation.brightness.ratios[1]
        assert white - black == pytest.approx(most * bright, rel=0.02)
        assert white < 0.9 * percentile_window(prepared.stack)[0][1]


def test_a_volume_that_is_black_there_is_scaled_by_its_own_percentiles(
    preparation: Preprocessing,
) -> None:
    array = _tissue()
    array[:, 10:54, 10:54] = 0
    prepared = _prepared(preparation, _case(array))
    assert prepared.curve == percentile_window(prepared.stack)


def test_the_place_has_room_around_the_structures_of_all_support_cases() -> None:
    rng = np.random.default_rng(0)
    stacks = [rng.uniform(1, 2, (3, 60, 40)) for _ in range(3)]
    labels = [np.zeros((3, 60, 40), np.uint8) for _ in range(3)]
    labels[0][1, 10:20, 12:22] = 1
    labels[1][2, 20:30, 2:12] = 1
    stacks[0][:, 40:] *= 5  # So that it is used.
    framing = Letterbox.fit((60, 40), (1.0, 1.0), 0.25, 256)
    prepared = [PreprocessedVolume(stack, percentile_window(stack), framing) for stack in stacks]
    learned = RoiIntensityBounds.learn(prepared, labels)
    assert learned is not None
    upper, lower, left, right = learned.place
    assert framing.point_on_slice(upper, left) == pytest.approx((10 - ROOM * 20, 2 - ROOM * 20))
    assert framing.point_on_slice(lower, right) == pytest.approx((30 + ROOM * 20, 22 + ROOM * 20))
    assert RoiIntensityBounds.learn(prepared[2:], labels[2:]) is None


def test_a_preparation_with_it_is_the_same_after_json(preparation: Preprocessing) -> None:
    assert preparation.brightness is not None
    assert Preprocessing.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation


def test_nothing_is_learned_where_all_volumes_have_one_scale() -> None:
    cases = [_case(_tissue(1)), _case(_with_a_coil(_tissue(2)))]
    slicings = [SliceGeometry.for_volume(case.volume) for case in cases]
    for modality, window in (("CT", None), ("MR", (0.0, 300.0))):
        preparation = Preprocessing.fit(cases, slicings, modality, window=window)
        assert preparation.brightness is None
        assert preparation.transform(cases[0].volume, slicings[0]).curve == preparation.curve


def test_a_black_support_is_no_error() -> None:
    case = _case(np.zeros((20, 64, 64), np.float32))
    preparation = _learned(case, case)
    assert preparation.brightness is None
    assert _prepared(preparation, case).image(3).max() == 0
