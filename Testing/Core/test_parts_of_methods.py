"""Attention, fine detail, confidence, slice positions and order, each by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from OFLSAM2Core.backbones import litemedsam
from OFLSAM2Core.backbones.base import Memory
from OFLSAM2Core.backbones.litemedsam import MaskAttention
from OFLSAM2Core.methods.common.class_balance import (
    NEAR_SHARE_IN_LOSS,
    PositionWeights,
    near_foreground_mask,
)
from OFLSAM2Core.methods.common.high_pass import high_pass_features
from OFLSAM2Core.methods.common.propagation_order import propagation_order
from OFLSAM2Core.methods.common.segmentation_loss import segmentation_loss
from OFLSAM2Core.postprocessing.confidence import (
    atlas_agreement,
    calibrated,
    extent_confidence,
    slice_confidence,
    soft_label_competition,
)
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import (
    PositionNoise,
    PositionScale,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _memories(generator: torch.Generator, structures: int = 6) -> list[Memory]:
    return [
        Memory(
            torch.randn(structures, 16, 8, 8, generator=generator),
            torch.randn(1, 32, 8, 8, generator=generator),
        )
        for _ in range(3)
    ]


def test_attention_is_a_softmax_over_likeness_less_squared_distance(
    generator: torch.Generator,
) -> None:
    attention = MaskAttention(32, projected=16).eval()
    query = torch.randn(1, 32, 8, 8, generator=generator)
    memories = _memories(generator)
    plane = torch.cartesian_prod(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 8))
    scores = []
    for memory in memories:
        assert memory.position is not None
        keys = attention.project(memory.position)[0].flatten(1).T
        likeness = attention.project(query)[0].flatten(1).T @ keys.T
        distance = torch.cdist(plane, plane).square() / attention.log_reach.exp() ** 2
        scores.append(likeness * attention.log_temperature.exp() - distance / 2)
    weights = torch.cat(scores, dim=1).softmax(dim=-1)
    values = torch.cat([m.features.flatten(2) for m in memories], dim=2)
    expected = torch.einsum("qt,nct->ncq", weights, values).reshape(6, 16, 8, 8)
    found = attention(query, memories)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_attention_reads_nearly_the_same_in_bfloat16_and_learns_in_single_precision(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = MaskAttention(32, projected=16).eval()
    query = torch.randn(1, 32, 8, 8, generator=generator)
    memories = _memories(generator)
    monkeypatch.setattr(litemedsam, "has_matrix_tiles", lambda device: False)
    exact = attention(query, memories).detach()
    monkeypatch.setattr(litemedsam, "has_matrix_tiles", lambda device: True)
    torch.testing.assert_close(attention(query, memories).detach(), exact)
    with torch.no_grad():
        read = attention(query, memories)
    assert read.dtype == torch.float32
    assert 1e-4 < float((read - exact).norm() / exact.norm()) < 0.02


def test_attention_for_all_structures_at_once_equals_one_at_a_time(
    generator: torch.Generator,
) -> None:
    attention = MaskAttention(32, projected=16).eval()
    query = torch.randn(1, 32, 8, 8, generator=generator)
    memories = _memories(generator)
    together = attention(query, memories)
    for structure in range(6):
        alone = attention(query, [memory.of([structure]) for memory in memories])
        torch.testing.assert_close(alone[0], together[structure], atol=1e-5, rtol=1e-4)


def test_a_sharp_attention_reads_the_mask_of_the_same_slice_back(
    generator: torch.Generator,
) -> None:
    attention = MaskAttention(32, projected=16).eval()
    with torch.no_grad():
        attention.log_temperature.fill_(6.0)
        attention.log_reach.fill_(4.0)  # So far that nearness does not count.
    memories = _memories(generator)
    assert memories[1].position is not None
    read = attention(memories[1].position, memories)
    torch.testing.assert_close(read, memories[1].features, atol=0.05, rtol=0)


def test_a_compressed_memory_reads_the_same_at_a_fraction_of_the_size(
    generator: torch.Generator,
) -> None:
    attention = MaskAttention(256, projected=64).eval()
    position = torch.randn(1, 256, 8, 8, generator=generator)
    memory = Memory(torch.randn(2, 16, 8, 8, generator=generator), position)
    small = attention.project_memory(memory)
    assert small.position is not None and small.position.numel() * 4 == position.numel()
    query = torch.randn(1, 256, 8, 8, generator=generator)
    torch.testing.assert_close(attention(query, [small]), attention(query, [memory]))


def test_detail_is_the_same_in_a_brighter_picture_of_twice_the_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 64, 64, generator=generator).expand(1, 3, 64, 64) * 0.4
    detail = high_pass_features(image, 16)
    assert detail.shape == (1, 16, 16, 16)
    same = high_pass_features(image * 2 + 0.1, 16)
    assert torch.corrcoef(torch.stack([detail.flatten(), same.flatten()]))[0, 1] > 0.999
    assert (same.std() / detail.std()).item() == pytest.approx(1, abs=0.25)


def test_detail_lies_where_it_is_in_the_picture_and_nowhere_where_that_is_even() -> None:
    image = torch.full((1, 3, 128, 128), 0.3)
    image[:, :, 41, 82] = 1
    detail = torch.nn.functional.pixel_shuffle(high_pass_features(image, 32), 4)[0, 0]
    assert divmod(int(detail.argmax()), 128) == (41, 82)
    assert (
        detail[:20].abs().max() < 1e-4
        and high_pass_features(image[..., :64, :64] * 0, 16).max() == 0
    )


def test_detail_of_a_large_image_is_that_of_the_grid_logits_have() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    large = image.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    torch.testing.assert_close(high_pass_features(large, 16), high_pass_features(image, 16))


def test_confidence_is_the_dice_to_be_expected_of_the_probabilities() -> None:
    sure = torch.zeros(1, 20, 20)
    sure[0, 5:15, 5:15] = 1
    assert slice_confidence(soft_label_competition(sure)) == pytest.approx(1)
    halo = sure.clone()
    halo[0, 3:5, 5:15] = 0.4
    expected = 2 * 100 / (100 + 100 + 20 * 0.4)
    assert slice_confidence(soft_label_competition(halo)) == pytest.approx(expected)
    faint, strong = (slice_confidence(soft_label_competition(sure * each)) for each in (0.6, 0.9))
    assert faint < strong


def test_where_structures_meet_confidence_is_the_expected_dice_of_the_prediction() -> None:
    """Where three structures share a voxel, one is predicted that has less than half."""
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([3.0, 4.0, 4.0, 4.0], (60, 60))
    scores = slice_confidence(torch.from_numpy(shares).permute(2, 0, 1))
    drawn = shares.argmax(axis=2)
    dice = []
    for _ in range(200):
        chance = rng.random((60, 60, 1))
        true = (shares.cumsum(axis=2) < chance).sum(axis=2)
        both = [((true == each) & (drawn == each)).sum() for each in (1, 2, 3)]
        sizes = [((true == each).sum() + (drawn == each).sum()) for each in (1, 2, 3)]
        dice.append(2 * np.array(both) / np.array(sizes))
    np.testing.assert_allclose(scores.numpy(), np.mean(dice, axis=0), atol=0.015)


def test_an_empty_slice_is_trusted_only_where_nothing_comes_close() -> None:
    nothing, doubtful = torch.full((1, 9, 9), 0.02), torch.full((1, 9, 9), 0.02)
    doubtful[0, 4, 4] = 0.45
    scores = slice_confidence(soft_label_competition(torch.cat([nothing, doubtful])))
    assert scores[0] > 0.8 > scores[1]


def test_voxels_are_shared_so_that_probabilities_add_up_to_one(
    generator: torch.Generator,
) -> None:
    own = torch.rand(4, 6, 6, generator=generator)
    shared = soft_label_competition(own)
    torch.testing.assert_close(shared.sum(dim=0), torch.ones(6, 6))
    # Between structures the order of their own probabilities is kept.
    assert torch.equal(shared[1:].argmax(dim=0), own.argmax(dim=0))
    one = soft_label_competition(own[:1])
    torch.testing.assert_close(one[1], own[0])


def test_the_slice_positions_of_a_support_case_come_from_where_its_structures_end() -> None:
    labels = np.zeros((20, 4, 4), np.uint8)
    labels[5:12, 1:3, 1:3] = 1
    scale = PositionScale.of_labels(labels, spacing=2.5)
    assert [scale.slice_position(2.5 * index) for index in (5, 8, 11)] == pytest.approx([-1, 0, 1])


def test_the_error_of_slice_positions_is_the_usual_one_and_not_that_of_an_outlier() -> None:
    true = PositionScale(middle=50.0, half=20.0)
    found = [
        PositionScale(50.0 - 4.0, 20.0),
        PositionScale(50.0 + 5.0, 16.0),
        PositionScale(20.0, 18.0),
    ]
    error = PositionNoise.of_pairs([(each, true) for each in found])
    assert error.shift == pytest.approx(5.0 / 16.0)
    assert error.scaling == pytest.approx(20.0 / 18.0 - 1)
    assert PositionNoise.of_pairs([(true, true)] * 3) == PositionNoise(shift=0.1, scaling=0.08)


@pytest.mark.parametrize(("start", "count"), [(0, 5), (4, 5), (2, 5), (1, 7), (0, 1)])
def test_slices_are_visited_once_each_outwards_from_the_start(start: int, count: int) -> None:
    order = list(propagation_order(start, count))
    assert sorted(index for index, _ in order) == list(range(count))
    distances = [abs(index - start) for index, _ in order]
    assert distances == sorted(distances)
    assert all((index - start) * direction >= 0 for index, direction in order)


def test_memories_keep_their_fields_when_structures_are_selected() -> None:
    memory = Memory(torch.arange(6.0).view(3, 2, 1, 1), torch.ones(1, 2, 1, 1), torch.eye(3))
    chosen = memory.of([2, 0])
    assert torch.equal(chosen.features.flatten(), torch.tensor([4.0, 5, 0, 1]))
    assert chosen.pointer is not None and torch.equal(chosen.pointer, torch.eye(3)[[2, 0]])
    assert replace(memory, pointer=None).of([1]).pointer is None


def test_finding_a_structure_of_a_thousandth_of_a_slice_lowers_the_loss() -> None:
    truth = torch.zeros(2, 1, 256, 256)
    truth[0, :, 100:108, 100:108] = 1
    near = torch.stack([near_foreground_mask(t, 64) for t in truth])
    weights = PositionWeights.from_support(list(near), NEAR_SHARE_IN_LOSS).weights(near)
    # A network that found the structure and believes a little everywhere, and one that gave up.
    found = torch.where(truth > 0, 1.0, -3.0)
    nothing = torch.full_like(truth, -8.0)
    plain = torch.ones_like(weights)

    def gain(weights: Tensor) -> float:
        lost = segmentation_loss(nothing, truth, weights)
        return float(lost - segmentation_loss(found, truth, weights))

    assert abs(gain(plain)) < 0.05 and gain(weights) > 0.2


def test_the_loss_of_large_structures_has_no_weights() -> None:
    near = torch.zeros(2, 1, 4096, dtype=torch.bool)
    near[:, :, :1000] = True
    weights = PositionWeights.from_support(list(near), NEAR_SHARE_IN_LOSS).weights(near)
    torch.testing.assert_close(weights, torch.ones_like(weights))


def test_calibration_is_less_sure_and_leaves_what_is_largest() -> None:
    shared = soft_label_competition(
        torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(3))
    )
    softer = calibrated(shared)
    torch.testing.assert_close(softer.sum(dim=0), torch.ones(16, 16))
    assert torch.equal(softer.argmax(dim=0), shared.argmax(dim=0))
    assert bool((softer.amax(dim=0) < shared.amax(dim=0)).all())
    sure = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    assert float(calibrated(sure).amax()) > 0.99
    torch.testing.assert_close(calibrated(shared, 1.0), shared, atol=1e-3, rtol=0)


def _ends(*positions: tuple[float, float]) -> StructureExtents:
    return StructureExtents(np.array(positions))


def _no_ends(count: int) -> StructureExtents:
    return _ends(*[(np.nan, np.nan)] * count)


def test_an_empty_slice_is_trusted_the_more_the_farther_it_is_from_what_was_drawn() -> None:
    areas = np.zeros((3, 12), np.int64)
    areas[0, 3:8] = 50
    areas[0, 5] = 0
    areas[1, :4] = 50
    beside, between, nowhere = extent_confidence(areas, np.linspace(-1, 1, 12), _no_ends(3))
    assert (beside[[3, 4, 6, 7]] == 1).all() and beside[5] == 0.5
    assert 0.5 < beside[8] < beside[9] < beside[10] < beside[11] < 1
    np.testing.assert_allclose(beside[2::-1], beside[8:11])
    assert (between[:4] == 1).all() and between[4] < between[11]
    assert (nowhere == 0.5).all()


def test_half_the_structures_height_is_the_measure_of_where_it_may_end() -> None:
    low, high = np.zeros((1, 60), np.int64), np.zeros((1, 60), np.int64)
    low[0, 20:30] = high[0, 20:40] = 50
    below, above = (extent_confidence(each, np.zeros(60), _no_ends(1))[0] for each in (low, high))
    np.testing.assert_allclose(below[30 + 2], above[40 + 4], atol=0.03)


def test_an_empty_slice_is_doubted_where_the_support_shows_the_structure() -> None:
    areas = np.zeros((1, 41), np.int64)
    areas[0, 18:23] = 50
    positions = np.linspace(-2, 2, 41)
    (alone,) = extent_confidence(areas, positions, _no_ends(1))
    (known,) = extent_confidence(areas, positions, _ends((-1.0, 0.3)))
    missed, empty = 15, 35
    assert alone[missed] > 0.95 and known[missed] < 0.2
    assert known[empty] > 0.95
    assert (known <= alone).all()


def test_what_was_drawn_is_doubted_where_the_supports_structures_have_long_ended() -> None:
    areas = np.full((2, 41), 50)
    positions = np.linspace(-2, 2, 41)
    closed, open_above = extent_confidence(areas, positions, _ends((-1.0, 1.0), (-1.0, np.nan)))
    inside = np.abs(positions) <= 1
    assert (closed[inside] > 0.85).all() and (closed[np.abs(positions) > 1.65] < 0.05).all()
    assert (np.diff(closed[positions >= 0]) <= 0).all()
    assert open_above[-1] == 1 and open_above[0] < 0.05


def test_what_was_drawn_is_doubted_where_support_cases_say_that_there_is_nothing() -> None:
    areas = np.array([[0, 40, 40, 40, 40]])
    (sure,) = atlas_agreement(areas, np.array([[0.1, 0.0, 0.2, 0.6, 0.9]]))
    np.testing.assert_allclose(sure, [1, 0, 0.4, 1, 1])


def test_what_attention_reads_in_training_is_what_it_reads_and_a_part_of_it_teaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attention = MaskAttention(32, projected=16)
    query, memory = torch.randn(1, 32, 8, 8), _memories(torch.Generator().manual_seed(1), 1)[0]
    read = attention.eval()(query, [memory])
    weights = torch.randn_like(read)
    (whole,) = torch.autograd.grad((read * weights).sum(), attention.projection.weight)

    attention.train()
    monkeypatch.setattr(litemedsam, "QUERIES_IN_TRAINING", 64)
    all_places = attention(query, [memory])
    torch.testing.assert_close(all_places, read)
    (gradient,) = torch.autograd.grad((all_places * weights).sum(), attention.projection.weight)
    torch.testing.assert_close(gradient, whole, atol=1e-4, rtol=1e-3)

    monkeypatch.setattr(litemedsam, "QUERIES_IN_TRAINING", 16)
    parts = []
    for seed in range(400):
        torch.manual_seed(seed)
        some_places = attention(query, [memory])
        torch.testing.assert_close(some_places, read)
        loss = (some_places * weights).sum()
        parts.append(torch.autograd.grad(loss, attention.projection.weight)[0])
    mean = 4 * torch.stack(parts).mean(dim=0)
    assert (mean - whole).norm() < 0.2 * whole.norm()
