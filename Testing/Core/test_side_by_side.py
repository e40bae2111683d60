"""A training step takes several slices at once, and the same seed still gives the same task."""

from __future__ import annotations

import threading

import pytest
import torch

from OFLSAM2Core.backbones import litemedsam
from OFLSAM2Core.backbones.base import Memory
from OFLSAM2Core.backbones.litemedsam import MaskAttention
from OFLSAM2Core.methods.common.parallel_backward import ParallelBackward

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():  # noqa: ANN201
    had = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(had)


def _memory() -> Memory:
    random = torch.Generator().manual_seed(1)
    features = torch.randn(1, 16, 8, 8, generator=random)
    return Memory(features, torch.randn(1, 32, 8, 8, generator=random))


def test_items_are_worked_on_at_the_same_time_and_come_back_in_order(two_threads: None) -> None:
    both_are_here = threading.Barrier(2, timeout=20)

    def work(item: int) -> tuple[int, int]:
        both_are_here.wait()  # Breaks if they come one after the other.
        return 10 * item, torch.get_num_threads()

    with ParallelBackward(CPU, 2) as side_by_side:
        assert side_by_side.each(work, [1, 2]) == [(10, 1), (20, 1)]


def test_the_number_of_threads_is_given_back_even_after_an_error(two_threads: None) -> None:
    def refuse(item: int) -> None:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 1"), ParallelBackward(CPU, 2) as side_by_side:
        side_by_side.each(refuse, [1, 2])
    assert torch.get_num_threads() == 2


def test_attention_with_the_same_seed_draws_the_same_whatever_happens_beside_it(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litemedsam, "TOKENS_IN_TRAINING", 16)
    attention = MaskAttention(32, projected=16).train()
    query, memory = torch.randn(1, 32, 8, 8), _memory()

    def read(seed: int) -> torch.Tensor:
        return attention.seeded(seed)(query, [memory]).detach()

    alone = [read(1), read(2)]
    with ParallelBackward(CPU, 2) as side_by_side:
        together = side_by_side.each(read, [1, 2] * 20)
    for number, found in enumerate(together):
        torch.testing.assert_close(found, alone[number % 2])
    assert not torch.allclose(alone[0], alone[1])


def test_what_attention_reads_in_training_is_what_it_reads_and_a_part_of_it_teaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attention = MaskAttention(32, projected=16)
    query, memory = torch.randn(1, 32, 8, 8), _memory()
    read = attention.eval()(query, [memory])
    weights = torch.randn_like(read)
    (whole,) = torch.autograd.grad((read * weights).sum(), attention.projection.weight)

    attention.train()
    monkeypatch.setattr(litemedsam, "QUERIES_IN_TRAINING", 64)
    all_places = attention.seeded(0)(query, [memory])
    torch.testing.assert_close(all_places, read)
    (gradient,) = torch.autograd.grad((all_places * weights).sum(), attention.projection.weight)
    torch.testing.assert_close(gradient, whole, atol=1e-4, rtol=1e-3)

    monkeypatch.setattr(litemedsam, "QUERIES_IN_TRAINING", 16)
    parts = []
    for seed in range(400):
        some_places = attention.seeded(seed)(query, [memory])
        torch.testing.assert_close(some_places, read)
        loss = (some_places * weights).sum()
        parts.append(torch.autograd.grad(loss, attention.projection.weight)[0])
    mean = 4 * torch.stack(parts).mean(dim=0)
    assert (mean - whole).norm() < 0.2 * whole.norm()


def test_gradients_of_a_batch_in_parts_are_those_of_the_whole_batch(two_threads: None) -> None:
    random = torch.Generator().manual_seed(3)
    batch, truth = torch.randn(5, 4, generator=random), torch.rand(5, 2, generator=random)
    layer, unused = torch.nn.Linear(4, 2), torch.nn.Linear(1, 1)

    def dice_loss(logits: torch.Tensor) -> torch.Tensor:
        found = logits.sigmoid()
        return 1 - 2 * (found * truth).sum() / (found + truth).sum()

    whole = layer(batch)
    wanted = torch.autograd.grad(dice_loss(whole), list(layer.parameters()))
    with ParallelBackward(CPU, 2) as side_by_side:
        parameters = [*layer.parameters(), *unused.parameters()]
        loss, logits = side_by_side.backward(
            layer, [batch[0::2], batch[1::2]], dice_loss, parameters
        )
    assert loss == pytest.approx(dice_loss(whole).item())
    torch.testing.assert_close(logits, whole.detach())
    torch.testing.assert_close([each.grad for each in layer.parameters()], list(wanted))
    assert unused.weight.grad is None
