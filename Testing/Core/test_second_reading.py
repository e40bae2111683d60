"""Levels found again from what was drawn, and slices read once more by them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from OFLSAM2Core.methods.common.class_balance import PositionWeights
from OFLSAM2Core.methods.common.mapping_network import (
    MappingNetwork,
    NormalEquations,
    PcaFeatureMap,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.refinement import RefinementPass
from OFLSAM2Core.methods.ofl_sam2_atlas.segmentation_head import (
    SegmentationHead,
    mapping_probability,
)
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionScale, SlicePosition


def _ball(count: int, spacing: float, middle: float, half: float) -> npt.NDArray[np.float64]:
    """Areas of a ball's slices."""
    level = (np.arange(count) * spacing - middle) / half
    return 1000 * np.clip(1 - level**2, 0, None)


SUPPORT = [(40, 2.0, 36.0, 25.0), (60, 1.5, 50.0, 30.0)]


def _extents() -> StructureExtents:
    return StructureExtents.from_support(
        [_ball(*case)[None] for case in SUPPORT],
        [spacing for _, spacing, _, _ in SUPPORT],
        [PositionScale(middle, half) for _, _, middle, half in SUPPORT],
    )


def test_levels_are_found_again_wherever_a_structure_lies_and_however_large_it_is() -> None:
    for middle, half in ((40.0, 25.0), (55.0, 28.0), (61.0, 35.0)):
        drawn = _ball(100, 1.0, middle, half)[None]
        scale = _extents().scale(drawn, 1.0, PositionScale(48.0, 27.0))
        assert scale.middle == pytest.approx(middle, abs=1.0)
        assert scale.half == pytest.approx(half, rel=0.06)


def test_what_goes_on_beyond_the_volume_does_not_move_levels() -> None:
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


def test_a_height_that_cannot_be_is_not_believed() -> None:
    found = PositionScale(48.0, 27.0)
    assert _extents().scale(_ball(100, 1.0, 50.0, 4.0)[None], 1.0, found) == found


@pytest.mark.parametrize("drawn_half", [15.0, 22.0])
def test_what_is_drawn_too_low_makes_a_volume_a_tenth_lower_at_most(drawn_half: float) -> None:
    scale = _extents().scale(
        _ball(100, 1.0, 40.0, drawn_half)[None], 1.0, PositionScale(48.0, 27.0)
    )
    assert scale.half == pytest.approx(0.9 * 27.0)
    assert scale.middle == pytest.approx(40.0, abs=1.0)


def test_its_middle_is_then_where_the_middle_of_what_was_drawn_says() -> None:
    upper_half = StructureExtents(np.array([[-1.0, 0.0]]))
    drawn = np.zeros((1, 100))
    drawn[0, 30:46] = 500
    scale = upper_half.scale(drawn, 1.0, PositionScale(48.0, 27.0))
    assert scale.half == pytest.approx(0.9 * 27.0)
    assert scale.level(37.5) == pytest.approx(-0.5, abs=0.05)


def test_structures_are_expected_where_those_of_the_support_are() -> None:
    first, last = _extents().levels[0]
    levels = np.linspace(-2, 2, 41)
    there = _extents().there(levels, 0.3)[0]
    assert there[20] > 0.99 and there[0] < 0.01 and there[-1] < 0.01
    np.testing.assert_allclose(
        np.interp([first - 0.05, last + 0.05], levels, there), 0.5, atol=0.01
    )
    np.testing.assert_allclose(there, there[::-1], atol=0.03)


def test_nothing_is_expected_of_a_structure_whose_end_no_case_shows() -> None:
    both = np.stack([_ball(40, 1.0, 5.0, 20.0), _ball(40, 1.0, 20.0, 12.0)])
    extents = StructureExtents.from_support([both], [1.0], [PositionScale(20.0, 20.0)])
    open_ended, closed = extents.there(np.linspace(-1, 1, 40), 0.3)
    assert (open_ended == 0).all() and closed.max() > 0.9


def _mapping(generator: torch.Generator) -> MappingNetwork:
    """Of five components, for two structures."""
    head = PcaFeatureMap(torch.randn(5, 8, generator=generator), with_places=True)
    tau = 0.1 * torch.randn(2, head.unknowns, 16, generator=generator)
    nothing = NormalEquations(torch.zeros(2, 1, 1), torch.zeros(2, 1, 16))
    even = PositionWeights(torch.ones(2), torch.ones(2))
    return MappingNetwork.start(head, tau, nothing, even, 0.01)


def test_a_second_reading_at_the_same_level_is_the_first_one() -> None:
    generator = torch.Generator().manual_seed(0)
    mapping = _mapping(generator)
    readout = SegmentationHead(
        5 + 16,
        16,
        2,
        memory_is_mask=True,
        reads_attended=True,
        in_volumes=True,
        uses_atlas_prior=True,
    ).requires_grad_(False)
    assert readout.u_net is not None
    torch.nn.init.normal_(readout.u_net.leave.weight, generator=generator)

    seen = torch.randn(1, 21, 8, 8, generator=generator)
    added = torch.randn(2, 32, 32, generator=generator)
    mapped = mapping.of_components(seen[0, :5], 0.3)[None]
    first = (readout(seen, [SlicePosition(0.3, again=True)], mapped)[0] + added).sigmoid()
    reading = RefinementPass(readout)
    reading.keep(4, seen, added, torch.tensor([1.0, 0.0]))
    again = reading.read(4, 0.3, mapping, None)
    torch.testing.assert_close(again[0], first[0], atol=0.01, rtol=0)
    assert (again[1] == 0).all()  # The decoder found nothing there.
    assert (reading.read(4, 0.9, mapping, None)[0] - again[0]).abs().max() > 0.05
    # Where nobody votes for anything it is as where nobody has been asked.
    voted = torch.zeros(2, 32, 32)
    assert torch.equal(reading.read(4, 0.3, mapping, voted), again)
    assert (reading.read(4, 0.3, mapping, 1 - voted)[0] - again[0]).abs().max() > 0.05


def test_what_the_mapping_network_finds_in_a_slice_depends_on_the_slice_and_its_level_alone() -> (
    None
):
    generator = torch.Generator().manual_seed(0)
    mapping = _mapping(generator)
    readout = SegmentationHead(21, 16, 2, memory_is_mask=True, reads_attended=True, in_volumes=True)
    reading = RefinementPass(readout)
    slices = torch.randn(2, 1, 21, 8, 8, generator=generator).half()
    for index, seen in enumerate(slices):
        reading.keep(index, seen, torch.zeros(2, 32, 32), torch.ones(2))
    for index, seen in enumerate(slices):
        found = reading.found(index, 0.3, mapping)
        wanted = mapping_probability(mapping.of_components(seen[0, :5].float(), 0.3))
        torch.testing.assert_close(found, wanted)
        assert found.max() > 0.3
        assert (reading.found(index, 0.9, mapping) - found).abs().max() > 0.05
