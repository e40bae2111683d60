"""Which support slices are encoded, and how many augmented copies of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch.nn.functional as F

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.methods.common.feature_normalization import probe_slices
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.support_encoding import SupportSlice, encode_support
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.preprocessing import Preprocessing
from OFLSAM2Core.preprocessing.support_stack import SupportStack


def _encode(
    options: LearnOptions,
    numbers: tuple[str, ...] = ("001", "003"),
    partners: npt.NDArray[np.intp] | None = None,
    votes: Callable[[Sequence[SupportStack]], Any] = lambda support: None,
) -> tuple[list[SupportSlice], list[Progress]]:
    backbone = Sam2Backbone.random(seed=3, image_size=128)
    cases = [sample_data().read_case(f"hippocampus_{number}") for number in numbers]
    slicings = [SliceGeometry.for_volume(case.volume) for case in cases]
    preparation = Preprocessing.fit(cases, slicings, size=backbone.image_size)
    support = [
        SupportStack(
            case.name,
            preparation.transform(case.volume, slicing),
            slicing,
            slicing.to_slices(case.labels),
        )
        for case, slicing in zip(cases, slicings, strict=True)
    ]
    said: list[Progress] = []
    rng = np.random.default_rng(0)
    structures = cases[0].structures
    slices = encode_support(
        backbone, support, structures, options, rng, said.append, partners, votes(support)
    )
    return slices, said


@pytest.mark.parametrize("copies", [0.0, 0.7, 1.4])
def test_as_many_slices_are_encoded_as_asked_copies_of_a_part_evenly_chosen(copies: float) -> None:
    originals, _ = _encode(LearnOptions(augmented_copies=0))
    options = LearnOptions(encoded_slices=round((1 + copies) * len(originals)))
    if copies == 0:
        options = LearnOptions(augmented_copies=0)
    slices, said = _encode(options)
    assert len(slices) == pytest.approx((1 + copies) * len(originals), abs=2)
    assert {each.total for each in said} == {len(slices)} and said[-1].done == len(slices)
    assert [s.index for s in slices if s.copy == 0] == [s.index for s in originals]
    of_copies = {s.copy: Counter(t.case for t in slices if t.copy == s.copy) for s in slices}
    for copy, cases in of_copies.items():
        share = min(1.0, 1 + copies - copy)
        for case, count in cases.items():
            of_case = [s.index for s in originals if s.case == case]
            copied = [s.index for s in slices if (s.case, s.copy) == (case, copy)]
            assert count == pytest.approx(share * len(of_case), abs=1)
            assert copied == sorted(set(copied)) and set(copied) <= set(of_case)
            if count > 12:
                gaps = np.diff([of_case.index(index) for index in copied])
                assert gaps.max() <= 2 / share


def test_of_a_single_case_a_copy_is_learned_from_where_its_original_is() -> None:
    originals, _ = _encode(LearnOptions(augmented_copies=0), ("001",))
    options = LearnOptions(encoded_slices=round(1.6 * len(originals)))
    slices, _ = _encode(options, ("001",))
    folds = {each.index: each.case for each in slices if each.copy == 0}
    copies = [each for each in slices if each.copy > 0]
    assert len(set(folds.values())) > 1 and copies
    assert all(each.case == folds[each.index] for each in copies)


def test_a_copied_part_has_the_slices_its_statistics_are_taken_from() -> None:
    slices, _ = _encode(LearnOptions(encoded_slices=1))
    copied = {s.index for s in slices if (s.case, s.copy) == (0, 1)}
    count = SliceGeometry.for_volume(sample_data().read_case("hippocampus_001").volume).count
    assert set(probe_slices(count)) <= copied


def test_slices_of_a_case_share_one_positional_encoding() -> None:
    """SAM 2's is as large as an embedding, and the same for every slice."""
    slices, _ = _encode(LearnOptions(augmented_copies=0))
    kept = {s.case: [t.stored.position for t in slices if t.case == s.case] for s in slices}
    for positions in kept.values():
        first = positions[0]
        assert first is not None and first.shape[1:] == slices[0].stored.embedding.shape[1:]
        assert len(positions) > 1 and all(each is first for each in positions)


def test_every_second_copy_is_mirrored_where_that_is_asked_for() -> None:
    options = LearnOptions(encoded_slices=160)
    as_they_are, _ = _encode(options)
    mirrored, _ = _encode(options, partners=np.array([1, 0]))
    turned = {copy: 0 for copy in {s.copy for s in mirrored}}
    for one, other in zip(as_they_are, mirrored, strict=True):
        if np.array_equal(other.masks, one.masks) and one.present.any():
            np.testing.assert_array_equal(other.stored.embedding, one.stored.embedding)
            continue
        np.testing.assert_array_equal(other.masks, one.masks.flip(-1)[[1, 0]])
        if one.present.any():
            assert not np.array_equal(other.stored.embedding, one.stored.embedding)
            turned[one.copy] += 1
    full = Counter(s.copy for s in mirrored if s.present.any())
    assert turned.pop(0) == 0 and len(turned) > 1
    for copy, count in turned.items():
        assert 0.3 < count / full[copy] < 0.7


class _Right:
    """Other cases that say what is labelled."""

    def __init__(self, case: SupportStack) -> None:
        self.case = case

    def on_network_grid(self, index: int, framing: Letterbox) -> npt.NDArray[np.float32]:
        assert framing == self.case.prepared.framing
        plane = self.case.labels[index]
        labels = [label for label in np.unique(self.case.labels) if label]
        return np.stack([self.case.prepared.resample_mask(plane, label) for label in labels])


@pytest.mark.parametrize("partners", [None, np.array([1, 0])])
def test_what_other_cases_say_goes_where_the_labels_go(
    partners: npt.NDArray[np.intp] | None,
) -> None:
    options = LearnOptions(augmented_copies=1)
    slices, _ = _encode(options, partners=partners, votes=lambda cases: [_Right(c) for c in cases])
    assert any(each.copy for each in slices)
    for each in slices:
        assert each.voted is not None
        masks = each.masks.float()[None]
        wanted = F.interpolate(masks, size=each.voted.shape[1:], mode="area")[0]
        assert (each.voted.float() - wanted).abs().max() <= 1


def test_where_nobody_is_asked_nothing_is_heard() -> None:
    slices, _ = _encode(LearnOptions(augmented_copies=0))
    assert all(each.voted is None for each in slices)
