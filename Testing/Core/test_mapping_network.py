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
from OFLSAM2Core.slice_position.encoding import PLACES, apply_rbf, rbf_encoding

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


@pytest.mark.parametrize("with_places", [False, True])
def test_the_convolution_is_what_the_fitted_rows_mean(
    slices: list[Tensor], with_places: bool
) -> None:
    head = PcaFeatureMap.fit(slices, components=6, with_places=with_places)
    generator = torch.Generator().manual_seed(2)
    tau = torch.randn(2, head.unknowns, OUTPUTS, generator=generator)
    by_rows = (head.rows(slices[0], 0.4) @ tau).transpose(1, 2).reshape(2, OUTPUTS, SIDE, SIDE)
    found = head.mapped_features(head(slices[0]), tau)
    if with_places:
        found = found + apply_rbf(tau[:, -PLACES:], 0.4, SIDE)
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


def test_places_distinguish_what_looks_the_same(slices: list[Tensor]) -> None:
    """Two equal spots, of which only the left one is the structure: features alone cannot."""
    embedding = slices[0].clone()
    embedding[..., 4:6, 1:3] = embedding[..., 4:6, 7:9]
    wanted = torch.full((1, 1, SIDE, SIDE), -1.0)
    wanted[..., 4:6, 1:3] = 1
    told = []
    for with_places in (False, True):
        head = PcaFeatureMap.fit([embedding], components=6, kernel=1, with_places=with_places)
        rows = head.rows(embedding)
        assert rows.shape == (SIDE * SIDE, head.unknowns)
        tau = equations_of(rows, wanted).closed_form()
        found = (rows @ tau[0]).view(SIDE, SIDE)
        told.append(float(found[4:6, 1:3].mean() - found[4:6, 7:9].mean()))
    assert told[0] == pytest.approx(0, abs=1e-4) and told[1] > 0.5


def test_places_change_along_the_body_and_not_beyond_what_is_known() -> None:
    def along(slice_position: float) -> Tensor:
        return rbf_encoding(slice_position, 6, "cpu")

    assert along(0.0).shape == (36, PLACES)
    assert (along(0.0) - along(0.5)).abs().max() > 0.05
    assert torch.equal(along(1.5), along(9.0))
    torch.testing.assert_close(along(-0.7).sum(dim=1), torch.full((36,), 4.0))


def test_places_are_mapped_at_any_slice_position_as_their_rows_are() -> None:
    weights = torch.randn(3, PLACES, 5, generator=torch.Generator().manual_seed(0))
    for position in (-3.0, -0.4, 0.0, 1.2):
        by_rows = (rbf_encoding(position, SIDE, "cpu") @ weights).transpose(1, 2)
        torch.testing.assert_close(
            apply_rbf(weights, position, SIDE).flatten(2), by_rows, atol=1e-4, rtol=1e-4
        )
