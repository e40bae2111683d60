"""The slices to look at first: the most doubtful ones, and no two of a structure side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.review_list import doubted_structure, slices_to_review
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.volume import Volume


@dataclass(frozen=True)
class One:
    index: int
    doubt: float
    scores: dict[str, float] = field(default_factory=lambda: {"liver": 0.5})
    frame: int = 0


def beside(one: One, other: One) -> bool:
    """Whether both show the same."""
    return (
        one.frame == other.frame
        and abs(one.index - other.index) <= 1
        and doubted_structure(one.scores) == doubted_structure(other.scores)
    )


scores = st.dictionaries(st.sampled_from(["liver", "lesion", "vessel"]), st.floats(0, 1))
several = st.lists(
    st.builds(
        One,
        index=st.integers(0, 40),
        doubt=st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
        scores=scores,
        frame=st.integers(0, 2),
    ),
    max_size=60,
    unique_by=lambda one: (one.frame, one.index),
)
fixed = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@fixed
@given(several, st.integers(0, 20))
def test_no_two_listed_slices_lie_side_by_side_unless_of_different_structures(
    slices: list[One], count: int
) -> None:
    listed = slices_to_review(slices, count)
    assert len(listed) <= count
    for number, one in enumerate(listed):
        assert one.scores and not any(beside(one, other) for other in listed[:number])


@fixed
@given(several, st.integers(0, 20))
def test_the_list_is_shorter_only_where_all_others_lie_beside_a_listed_slice(
    slices: list[One], count: int
) -> None:
    listed = slices_to_review(slices, count)
    if len(listed) < count:
        for one in slices:
            assert not one.scores or any(beside(one, other) for other in listed)


@fixed
@given(several, st.integers(0, 20), st.integers(0, 20))
def test_a_shorter_list_is_the_beginning_of_a_longer_one(
    slices: list[One], few: int, more: int
) -> None:
    assert slices_to_review(slices, few + more)[:few] == slices_to_review(slices, few)


@fixed
@given(several, st.randoms())
def test_neither_the_order_of_slices_nor_the_unit_of_doubt_matters(
    slices: list[One], random: object
) -> None:
    listed = slices_to_review(slices, 8)
    assert slices_to_review(reversed(slices), 8) == listed
    halved = [One(one.index, one.doubt / 2, one.scores, one.frame) for one in slices]
    assert [(one.frame, one.index) for one in slices_to_review(halved, 8)] == [
        (one.frame, one.index) for one in listed
    ]


@fixed
@given(several)
def test_the_most_doubtful_slice_comes_first(slices: list[One]) -> None:
    scored = [one for one in slices if one.scores]
    listed = slices_to_review(slices, 1)
    assert len(listed) == min(1, len(scored))
    assert all(listed[0].doubt >= one.doubt for one in scored)


@fixed
@given(
    st.lists(
        st.tuples(st.floats(0.05, 0.95), st.floats(0.03, 0.2), st.floats(1, 100)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([3, 5, 7]),  # so that there is a thin slice in the middle of a thick one
)
def test_places_are_about_the_same_however_thin_slices_are(
    hills: list[tuple[float, float, float]], thinner: int
) -> None:
    def doubt_at(places: np.ndarray) -> np.ndarray:
        return sum(
            height * np.exp(-(((places - middle) / width) ** 2)) for middle, width, height in hills
        )

    def listed(count: int) -> list[float]:
        places = (np.arange(count) + 0.5) / count
        slices = [One(index, float(doubt)) for index, doubt in enumerate(doubt_at(places))]
        return [places[one.index] for one in slices_to_review(slices, 3)]

    thick, thin = listed(60), listed(60 * thinner)
    doubts = [float(doubt_at(np.array([places[0]]))[0]) for places in (thick, thin)]
    assert doubts[1] >= doubts[0] * (1 - 1e-9)
    # Later ones keep away from it by a share of the structure's height, not by a number of slices.
    assert min(np.diff(sorted(thick))) > 0.03 and min(np.diff(sorted(thin))) > 0.015


def test_a_hill_of_doubt_is_seen_once_before_a_lower_hill_elsewhere() -> None:
    places = np.arange(100)
    doubt = 100 * np.exp(-(((places - 30) / 4) ** 2)) + 60 * np.exp(-(((places - 80) / 4) ** 2))
    slices = [One(int(index), float(doubt[index])) for index in places]
    assert [one.index for one in slices_to_review(slices, 2)] == [30, 80]


def test_a_neighbour_that_doubts_another_structure_is_listed() -> None:
    slices = [One(4, 9), One(5, 8), One(6, 7, {"liver": 0.9, "lesion": 0.1}), One(7, 1)]
    assert [one.index for one in slices_to_review(slices, 4)] == [4, 6, 7]


def test_slices_of_other_frames_are_no_neighbours() -> None:
    slices = [One(4, 9), One(4, 8, frame=1), One(5, 7, frame=2), One(5, 6)]
    assert [(one.frame, one.index) for one in slices_to_review(slices, 4)] == [
        (0, 4), (1, 4), (2, 5)
    ]  # fmt: skip


def test_a_result_lists_its_slices_along_the_axis_they_were_cut() -> None:
    found = SegmentationBuffer(Volume(np.zeros((6, 7, 12), np.int16)))
    for index, sure in enumerate([250, 200, 10, 20, 255, 255, 100, 255, 255, 30, 255, 255]):
        plane = np.full((6, 7), sure, np.uint8)
        named = {} if index == 9 else {"liver": sure / 255}
        found.add(SliceResult(index, 2, np.ones_like(plane), plane, named))
    assert found.slices_to_review(3) == [2, 6, 0]
