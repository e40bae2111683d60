"""OFL-SAM2 as published: its equations, and a volume and a sequence from end to end.

On a small SAM2 with random weights, which a slice takes 5 ms; accuracy with real weights is in
docs/experiments/ofl-sam2-by-itself.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from disc_and_bar import STRUCTURES, disc_and_bar
from torch import Tensor
from toy_mask_backbone import ToyMaskBackbone

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures, Memory
from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.sliced_volume import SlicePreparation
from OFLSAM2Core.methods.common.support_memory import SupportMemory, descriptor
from OFLSAM2Core.methods.ofl_sam2 import OflSam2
from OFLSAM2Core.methods.ofl_sam2.adaptive_fusion import AdaptiveFusion
from OFLSAM2Core.methods.ofl_sam2.mapping_network import (
    LAMBDA,
    MappingNetwork,
    NormalEquations,
    convolve,
    rows,
)
from OFLSAM2Core.methods.ofl_sam2.memory_bank import RecentMemory, confident_structures
from OFLSAM2Core.methods.ofl_sam2.support_encoding import encode_support
from OFLSAM2Core.methods.ofl_sam2.training import Training, support_equations

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def backbone() -> Sam2Backbone:
    return Sam2Backbone.random(seed=3, image_size=128)


def _context(backbone: Backbone, seed: int = 0) -> Context:
    return Context(backbone, backbone.device, seed, lambda progress: None)


def _sequence(number: int, frames: int = 5) -> SupportCase:
    case = disc_and_bar(number, frames)
    grey = np.clip(case.volume.array / 2, 0, 255).astype(np.uint8)
    return SupportCase(
        Volume(np.repeat(grey[..., None], 3, axis=-1), np.eye(4), f"frames{number}"),
        case.labels,
        STRUCTURES,
    )


QUICK = {"training_steps": 6, "augmentation_factor": 1, "kernel": 1}


def _learn(
    backbone: Backbone, cases: list[SupportCase], seed: int = 0, **values: Any
) -> LearnedTask:
    options = OflSam2.LearnOptions.from_values({**QUICK, **values})
    state = OflSam2().learn(_context(backbone, seed), cases, options)
    return LearnedTask(STRUCTURES, "ofl-sam2", state, options.to_json())


@pytest.fixture(scope="module")
def task(backbone: Sam2Backbone) -> LearnedTask:
    return _learn(backbone, [disc_and_bar(0), disc_and_bar(1)])


def _segment(
    backbone: Backbone, volume: Volume, task: LearnedTask, **values: Any
) -> npt.NDArray[np.uint8]:
    """Labels and confidence, (2, K, J, I); 255 where no slice has arrived."""
    options = OflSam2.SegmentOptions.from_values(values)
    found = np.full((2, *volume.grid_shape), 255, np.uint8)
    for result in OflSam2().open(_context(backbone), volume, task, options).slices():
        found[0][result.index_expression] = result.labels
        found[1][result.index_expression] = result.confidence
    return found


# The mapping network


def _samples(count: int, structures: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(count)
    return [
        (
            torch.randn(1, 5, 6, 6, generator=generator),
            torch.randn(structures, 3, 6, 6, generator=generator),
        )
        for _ in range(count)
    ]


def _equations(samples: list[tuple[Tensor, Tensor]], kernel: int) -> NormalEquations:
    each = [NormalEquations.of_slice(x, e, kernel) for x, e in samples]
    total = each[0]
    for one in each[1:]:
        total = total.plus(one)
    return total.plus(total, 1 / len(each), 0.0)


def _residuals(tau: Tensor, samples: list[tuple[Tensor, Tensor]], kernel: int) -> Tensor:
    """r of one structure as the paper's ancestors write it: w (T_tau(x) - e), lambda tau."""
    positions = samples[0][0][0, 0].numel()
    weight = (1 / (len(samples) * positions)) ** 0.5
    parts = [weight * (convolve(x, tau, kernel) - e).flatten() for x, e in samples]
    return torch.cat([*parts, LAMBDA * tau.flatten()])


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_step_is_gauss_newtons_along_the_gradient_of_the_residuals(kernel: int) -> None:
    """By autograd on the samples themselves: g = J'r, h = J g, alpha = g.g / h.h."""
    samples = [(x, e[:1]) for x, e in _samples(3)]
    equations = _equations(samples, kernel)
    tau = torch.randn(1, 5 * kernel**2 + 1, 3, generator=torch.Generator().manual_seed(0))
    expected = tau
    for _ in range(4):
        residual, push = torch.func.vjp(lambda t: _residuals(t, samples, kernel), expected)
        (gradient,) = push(residual)
        _, along = torch.func.jvp(
            lambda t: _residuals(t, samples, kernel), (expected,), (gradient,)
        )
        expected = expected - gradient.square().sum() / along.square().sum() * gradient
    torch.testing.assert_close(equations.steepest_descent(tau, 4), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_convolution_is_the_least_squares_problem_that_is_solved(kernel: int) -> None:
    (features, memory), *_ = _samples(1)
    tau = torch.randn(2, 5 * kernel**2 + 1, 3, generator=torch.Generator().manual_seed(1))
    by_rows = (rows(features, kernel) @ tau).transpose(1, 2).reshape(memory.shape)
    torch.testing.assert_close(convolve(features, tau, kernel), by_rows, rtol=1e-4, atol=1e-5)


def test_many_steps_end_where_the_closed_form_is_and_none_before_it_is_better() -> None:
    equations = _equations(_samples(4), 1)
    best = equations.minimum()
    tau = torch.zeros_like(best)
    losses = []
    for _ in range(60):
        losses.append(equations.loss(tau))
        tau = equations.steepest_descent(tau, 1)
    assert all(bool((b <= a + 1e-7).all()) for a, b in zip(losses, losses[1:], strict=False))
    torch.testing.assert_close(tau, best, rtol=1e-3, atol=1e-4)
    assert bool((equations.loss(best) <= equations.loss(tau) + 1e-6).all())


def test_an_update_moves_the_network_to_the_new_slice_and_leaves_other_structures_alone() -> None:
    support, (new, memory) = _samples(3), _samples(7)[0]
    network = MappingNetwork.fit(_equations(support, 1), 1, 0, closed_form=True)
    updated = network.update(new, memory, [1], 5)

    def error(own: MappingNetwork) -> Tensor:
        return (own(new) - memory).square().mean(dim=(1, 2, 3))

    assert error(updated)[1] < error(network)[1]
    assert torch.equal(updated.tau[0], network.tau[0])
    assert network.update(new, memory, [], 5) is network


def test_annotated_slices_never_weigh_less_than_three_quarters() -> None:
    """However many predicted slices there are, what is fitted lies at most a quarter of the way
    from the support's loss to theirs."""
    support, (new, memory) = _samples(3), _samples(7)[0]
    network = MappingNetwork.fit(_equations(support, 1), 1, 0, closed_form=True)
    for _ in range(60):
        network = network.update(new, memory, [0, 1], 10)
    own = NormalEquations.of_slice(new, memory, 1)
    wanted = _equations(support, 1).plus(own, 0.75, 0.25)
    torch.testing.assert_close(
        network.tau, NormalEquations(wanted.gram, wanted.moment).minimum(), rtol=1e-2, atol=1e-3
    )


# The memory bank and the gate


def test_retrieval_finds_the_slice_that_a_query_was_made_from() -> None:
    slices = torch.randn(9, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    bank = torch.stack([descriptor(s[None]) for s in slices])
    memories = [Memory(torch.full((1, 1, 1, 1), float(i))) for i in range(9)]
    noisy = slices[5][None] + 0.3 * torch.randn(1, 4, 16, 16)
    memory = SupportMemory(memories, bank, torch.ones(9, dtype=torch.bool), torch.zeros(9))
    best, second = memory.retrieve(descriptor(noisy), 2)
    assert float(best.features) == 5 and float(second.features) != 5


def test_the_gate_opens_above_gamma_for_each_structure_by_itself() -> None:
    scores = torch.tensor([0.9, 0.8, 0.3])
    assert confident_structures(scores, 0.8, "gated") == [0]
    assert confident_structures(scores, 0.2, "gated") == [0, 1, 2]
    assert confident_structures(scores, 0.8, "always") == [0, 1, 2]
    assert confident_structures(scores, 0.2, "none") == []


def test_recent_memory_forgets_the_oldest_of_each_structure() -> None:
    recent = RecentMemory(2)
    for position in range(4):
        memory = Memory(torch.full((2, 1, 1, 1), float(position)))
        recent.add(position, memory, [0] if position == 3 else [0, 1])
    found = {tuple(s): [at for at, _ in near] for s, near in recent.groups(2)}
    assert found == {(0,): [2, 3], (1,): [1, 2]}


def test_structures_that_remember_the_same_slices_are_attended_together() -> None:
    recent = RecentMemory(2)
    recent.add(4, Memory(torch.arange(3.0).view(3, 1, 1, 1)), [0, 2])
    groups = recent.groups(3)
    assert sorted(s for structures, _ in groups for s in structures) == [0, 1, 2]
    ((_, memory),) = next(near for structures, near in groups if structures == [0, 2])
    assert memory.features.flatten().tolist() == [0.0, 2.0]


# Fusion


def test_fusion_lies_between_the_branches_at_every_place(backbone: Sam2Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    fusion = AdaptiveFusion.for_backbone(backbone)
    torch.nn.init.normal_(fusion.gate.weight, generator=generator)
    embedding = torch.randn(1, 256, 8, 8, generator=generator)
    attended = torch.randn(2, 256, 8, 8, generator=generator)
    mapped = torch.randn(2, 64, 8, 8, generator=generator)
    first, second = fusion(embedding, attended, None), fusion(embedding, None, mapped)
    fused = fusion(embedding, attended, mapped)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    assert bool(((fused >= low - 1e-5) & (fused <= high + 1e-5)).all())
    assert not torch.allclose(fused, fusion(embedding, attended, mapped, adaptive=False))
    torch.testing.assert_close(
        fusion(embedding, attended, mapped, adaptive=False), (first + second) / 2
    )


# From end to end


def test_every_slice_of_a_volume_is_segmented_once_on_its_own_grid(
    backbone: Sam2Backbone, task: LearnedTask
) -> None:
    volume = disc_and_bar(2).volume
    options = OflSam2.SegmentOptions()
    results = list(OflSam2().open(_context(backbone), volume, task, options).slices())
    assert sorted(result.index for result in results) == list(range(len(volume.array)))
    for result in results:
        assert result.axis == 0 and result.labels.shape == volume.array.shape[1:]
        assert set(np.unique(result.labels)) <= {0, 1, 4}
        assert set(result.scores) == {"disc", "bar"}
        assert all(0 <= score <= 1 for score in result.scores.values())


def test_a_volume_goes_outwards_from_one_slice_and_a_sequence_in_its_order(
    backbone: Sam2Backbone, task: LearnedTask
) -> None:
    def order(volume: Volume, own: LearnedTask) -> list[int]:
        run = OflSam2().open(_context(backbone), volume, own, OflSam2.SegmentOptions())
        return [result.index for result in run.slices()]

    indices = order(disc_and_bar(2).volume, task)
    for done, index in enumerate(indices[1:], start=1):
        assert any(abs(index - before) == 1 for before in indices[:done])
    frames = _learn(backbone, [_sequence(0), _sequence(1)])
    assert order(_sequence(2).volume, frames) == list(range(5))


def test_the_same_seed_gives_the_same_task_and_leaves_the_callers_random_numbers_alone(
    backbone: Sam2Backbone, task: LearnedTask
) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = _learn(backbone, [disc_and_bar(0), disc_and_bar(1)])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert again.state.tensors.keys() == task.state.tensors.keys()
    for name, tensor in task.state.tensors.items():
        assert torch.equal(again.state.tensors[name], tensor), name
    other = _learn(backbone, [disc_and_bar(0), disc_and_bar(1)], seed=1)
    name = "fusion.lift.weight"
    assert not torch.equal(other.state.tensors[name], task.state.tensors[name])


@pytest.mark.parametrize("values", [{"memory_branch": False}, {"mapping_branch": False}])
def test_each_branch_alone_segments_and_says_something_else(
    backbone: Sam2Backbone, task: LearnedTask, values: dict[str, bool]
) -> None:
    volume = disc_and_bar(2).volume
    both, one = _segment(backbone, volume, task), _segment(backbone, volume, task, **values)
    assert not np.array_equal(both[1], one[1])


def test_slices_that_pass_the_gate_change_what_follows_and_only_that(
    backbone: Sam2Backbone, task: LearnedTask
) -> None:
    volume = disc_and_bar(2).volume

    def confidence(**values: Any) -> list[npt.NDArray]:
        options = OflSam2.SegmentOptions.from_values(values)
        run = OflSam2().open(_context(backbone), volume, task, options)
        return [result.confidence for result in run.slices()]

    never, always = confidence(update="none"), confidence(update="always")
    assert np.array_equal(never[0], always[0])
    assert not np.array_equal(never[1], always[1])
    assert all(map(np.array_equal, confidence(gamma=1.0), never))
    memory_alone = confidence(update="always", mapping_branch=False, recent_slices=0)
    assert all(map(np.array_equal, memory_alone, confidence(update="none", mapping_branch=False)))


def test_running_twice_gives_the_same_and_learns_nothing_into_the_task(
    backbone: Sam2Backbone, task: LearnedTask
) -> None:
    volume = disc_and_bar(2).volume
    kept = {name: tensor.clone() for name, tensor in task.state.tensors.items()}
    once = _segment(backbone, volume, task, update="always")
    assert np.array_equal(once, _segment(backbone, volume, task, update="always"))
    assert all(torch.equal(kept[name], tensor) for name, tensor in task.state.tensors.items())


def test_a_state_of_another_version_or_without_a_part_is_refused(
    backbone: Sam2Backbone, task: LearnedTask
) -> None:
    options, volume = OflSam2.SegmentOptions(), disc_and_bar(2).volume
    newer = replace(task, state=replace(task.state, version=99))
    with pytest.raises(TaskError, match="another version of this method .99;"):
        OflSam2().open(_context(backbone), volume, newer, options)
    rest = {n: t for n, t in task.state.tensors.items() if n != "mapping.tau"}
    with pytest.raises(TaskError, match="lacks a part"):
        OflSam2().open(
            _context(backbone),
            volume,
            replace(task, state=replace(task.state, tensors=rest)),
            options,
        )


def test_one_case_teaches_too(backbone: Sam2Backbone) -> None:
    task = _learn(backbone, [disc_and_bar(0, slices=14)])
    assert set(np.unique(_segment(backbone, disc_and_bar(1).volume, task)[0])) <= {0, 1, 4}


# On a backbone whose memory features are masks


class Recording(ToyMaskBackbone):
    """offsets: how many slices away each recent memory is taken to be."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets: list[int] = []

    def attend(self, features: ImageFeatures, support, recent, attention=None, **more) -> Tensor:
        self.offsets += [offset for offset, _ in recent]
        return super().attend(features, support, recent, attention, **more)


@pytest.mark.parametrize(("every", "offsets"), [(1, {1}), (2, set())])
def test_in_training_only_an_adjacent_slice_is_a_neighbour(every: int, offsets: set[int]) -> None:
    """Where every second slice was encoded, the next one in the list is none."""
    backbone = Recording()
    ctx, options = _context(backbone), OflSam2.LearnOptions(training_steps=12, kernel=1)
    _, cases = SlicePreparation.learn([disc_and_bar(0), disc_and_bar(1)], backbone.image_size)
    encoded = encode_support(ctx, cases, STRUCTURES, 20, 0)
    slices = [replace(each, index=every * each.index) for each in encoded]
    with ctx.seeded():
        Training(ctx, slices, support_equations(ctx, slices, 1), options).run()
    assert set(backbone.offsets) == offsets


def test_two_cases_teach_a_third_on_a_backbone_of_litemedsams_kind() -> None:
    backbone = ToyMaskBackbone()
    cases = [disc_and_bar(number) for number in (0, 1, 3)]
    task = _learn(backbone, cases, training_steps=60, learning_rate=1e-2)
    truth = disc_and_bar(2)
    for values in ({}, {"mapping_branch": False}):
        labels, _ = _segment(backbone, truth.volume, task, **values)
        for structure in STRUCTURES:
            own = dice(labels == structure.label, truth.labels == structure.label)
            assert own > 0.65, (values, structure.name, own)
