"""The mapping network is fitted the way the paper says, and its shortcuts change nothing."""

from __future__ import annotations

import pytest
import torch
from normal_equations import equations_of
from torch import Tensor

from OFLSAM2Core.methods.common.class_balance import (
    NEAR_SHARE,
    PositionWeights,
    near_foreground_mask,
)
from OFLSAM2Core.methods.common.mapping_network import (
    REGULARISER,
    NormalEquations,
    PcaFeatureMap,
)

CHANNELS, SIDE, OUTPUTS = 12, 10, 4
EVEN = PositionWeights(torch.ones(2), torch.ones(2))
NOWHERE = torch.zeros(2, SIDE * SIDE, dtype=torch.bool)


@pytest.fixture
def slices() -> list[Tensor]:
    """Embeddings (1, C, h, w) whose channels differ in size, as real ones do."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(0, -1.5, CHANNELS).view(1, CHANNELS, 1, 1)
    return [torch.randn(1, CHANNELS, SIDE, SIDE, generator=generator) * sizes for _ in range(4)]


@pytest.fixture
def wanted() -> list[Tensor]:
    """Memory features (N=2, M, h, w) of each slice."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, OUTPUTS, SIDE, SIDE, generator=generator) for _ in range(4)]


@pytest.fixture
def head(slices: list[Tensor]) -> PcaFeatureMap:
    return PcaFeatureMap.fit(slices, components=6)


def _equations(head: PcaFeatureMap, slices: list[Tensor], wanted: list[Tensor]) -> NormalEquations:
    each = [equations_of(head.rows(x), e) for x, e in zip(slices, wanted, strict=True)]
    total = each[0]
    for one in each[1:]:
        total = total.plus(one)
    return NormalEquations(total.gram / len(each), total.moment / len(each))


def _loss(head: PcaFeatureMap, slices: list[Tensor], wanted: list[Tensor], tau: Tensor) -> Tensor:
    """Half the mean square residual plus penalty, from the samples themselves: (N,)."""
    total = torch.zeros(len(tau))
    for x, e in zip(slices, wanted, strict=True):
        residual = (head.rows(x) @ tau).transpose(1, 2).reshape(e.shape) - e
        total = total + residual.square().sum(dim=(1, 2, 3)) / (SIDE * SIDE) / 2
    return total / len(slices) + REGULARISER**2 * tau.square().sum(dim=(1, 2)) / 2


def test_the_convolution_is_what_the_fitted_rows_mean(slices: list[Tensor]) -> None:
    head = PcaFeatureMap.fit(slices, components=6)
    generator = torch.Generator().manual_seed(2)
    tau = torch.randn(2, head.unknowns, OUTPUTS, generator=generator)
    by_rows = (head.rows(slices[0]) @ tau).transpose(1, 2).reshape(2, OUTPUTS, SIDE, SIDE)
    found = head.mapped_features(head(slices[0]), tau)
    torch.testing.assert_close(found, by_rows, atol=1e-4, rtol=1e-4)


def test_the_closed_form_is_the_least_loss_over_the_samples(
    head: PcaFeatureMap, slices: list[Tensor], wanted: list[Tensor]
) -> None:
    exact = _equations(head, slices, wanted).closed_form().requires_grad_()
    _loss(head, slices, wanted, exact).sum().backward()
    assert exact.grad is not None and exact.grad.abs().max() < 1e-5


def test_a_balance_weighs_every_position_as_if_the_samples_were_written_out(
    head: PcaFeatureMap, slices: list[Tensor], wanted: list[Tensor]
) -> None:
    near = torch.rand(2, SIDE * SIDE, generator=torch.Generator().manual_seed(4)) < 0.1
    balance = PositionWeights(near=torch.tensor([5.0, 2.0]), far=torch.tensor([0.5, 0.9]))
    rows = head.rows(slices[0])
    found = equations_of(rows, wanted[0], near, balance)
    for structure in range(2):
        weight = torch.where(near[structure], balance.near[structure], balance.far[structure])
        weighted = rows * weight[:, None] / len(rows)
        target = wanted[0][structure].flatten(1).T
        torch.testing.assert_close(found.gram[structure], weighted.T @ rows)
        torch.testing.assert_close(found.moment[structure], weighted.T @ target)


def test_near_a_small_structure_positions_have_their_share_of_all_weight() -> None:
    masks = torch.zeros(2, 64, 64)
    masks[0, 20:24, 20:24] = 1
    masks[1, :, :40] = 1
    places = [near_foreground_mask(masks, 16), near_foreground_mask(torch.zeros(2, 64, 64), 16)]
    assert places[0].sum(dim=1).tolist() == [25, 192]  # Two positions around it on every side.
    balance = PositionWeights.from_support(places)
    weights = [torch.where(p.T, balance.near, balance.far).T for p in places]
    torch.testing.assert_close(torch.cat(weights, dim=1).mean(dim=1), torch.ones(2))
    near_weight = (weights[0] * places[0]).sum(dim=1) / (2 * 256)
    torch.testing.assert_close(near_weight, torch.tensor([NEAR_SHARE, 192 / 512]))


def test_a_tiny_structure_is_found_because_of_the_balance(head: PcaFeatureMap) -> None:
    """One position in a hundred, told by one channel with noise: least squares alone says
    "nowhere"."""
    generator = torch.Generator().manual_seed(5)
    embedding = 0.5 * torch.randn(1, CHANNELS, SIDE, SIDE, generator=generator)
    embedding[0, 0, 4, 4] += 2
    wanted = torch.full((1, 1, SIDE, SIDE), -1.0)
    wanted[0, 0, 4, 4] = 1
    mask = (wanted[0] + 1) / 2
    near = near_foreground_mask(mask, SIDE)
    here = PcaFeatureMap.fit([embedding], components=2, kernel=1)
    rows = here.rows(embedding)
    plain = equations_of(rows, wanted)
    balanced = equations_of(rows, wanted, near, PositionWeights(torch.tensor([9.0]), torch.ones(1)))
    found = [
        (rows @ equations.closed_form()[0]).view(SIDE, SIDE)[4, 4]
        for equations in (plain, balanced)
    ]
    assert found[0] < -0.5 < found[1]
