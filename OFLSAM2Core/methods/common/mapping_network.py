"""The mapping network T_tau: one convolution from image features to memory features.

In volumes it knows besides where positions lie (places.py), which enters as linearly.

It is fitted, not trained: its loss (mean square error to the memory features of known slices, plus
lambda^2 |tau|^2) is quadratic in tau, so the whole history of samples is held by two matrices, the
normal equations, and steepest descent on them takes the same steps as on the samples themselves.
A slice's 4096 positions then cost one product when it is added and nothing afterwards, where
keeping 32 samples (as LWL does) costs 32 convolutions in each of 5 steps.

Notation of METHODS in the paper and of LWL (Bhat et al. 2020): r = T_tau(x) - e, g = J'r, h = Jg,
alpha = g.g / h.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.common.class_balance import PositionWeights
from OFLSAM2Core.slice_position.encoding import PLACES, places, through_places

REGULARISER = 1e-2
"""lambda of LWL and LLB: it multiplies tau inside the residual."""

NEW_SAMPLE = 0.1
"""LWL's weight of a new sample: a tenth of all."""

LEAST_SUPPORT = 0.75
"""Of all weight, what the annotated samples never have less than. LWL has a quarter, and a first
frame that shows the very object; with that, a prostate whose first slices were drawn too large was
drawn three times too large in the end (docs/experiments/other-sets.md)."""

POSITIONS = 2048
"""Of a slice, drawn at random, that are fitted on: neighbours say much the same, so a part is
enough, and takes less time."""

POSITIONS_LEARNED = 400_000
"""Of all slices that are learned from: of many slices fewer each are enough."""


def sample_positions(count: int, rng: np.random.Generator, slices: int = 1) -> Tensor:
    """Indices of some of so many positions, of one slice out of `slices`."""
    most = min(POSITIONS, POSITIONS_LEARNED // slices)
    return torch.from_numpy(rng.permutation(count)[:most])


class PcaFeatureMap:
    """What T_tau's convolution is applied to: principal components of the standardised
    embedding, with a constant channel for the bias; and, in volumes, the places of positions.

    256 channels would make 2304 unknowns for each output and 21 MB a matrix; 96 components keep
    the normal equations small enough to be updated with every slice.
    """

    def __init__(self, basis: Tensor, kernel: int = 3, with_places: bool = False) -> None:
        self.basis = basis
        self.kernel = kernel
        self.with_places = with_places

    @classmethod
    def fit(
        cls,
        embeddings: list[Tensor],
        components: int = 96,
        kernel: int = 3,
        with_places: bool = False,
    ) -> PcaFeatureMap:
        """From standardised embeddings (1, C, h, w) of support slices.

        with_places: whether what is learned lies at much the same place in every case, as organs
        do, and things in a video do not.
        """
        channels = embeddings[0].shape[1]
        channels_first = [e.float().flatten(2)[0][:, ::4] for e in embeddings]
        second = torch.stack([_outer(x.T) / x.shape[1] for x in channels_first]).mean(dim=0)
        values, vectors = torch.linalg.eigh(_in_double(second))
        keep = min(components, channels)
        scale = values[-keep:].sum().clamp(min=1e-12).sqrt()
        # One scale for all: the regulariser then weighs the same on every backbone, and small
        # components are not blown up to the size of large ones.
        basis = (vectors[:, -keep:] * (keep**0.5 / scale)).float().T.contiguous()
        return cls(basis.to(second.device), kernel, with_places)

    @property
    def unknowns(self) -> int:
        return self.basis.shape[0] * self.kernel**2 + 1 + PLACES * self.with_places

    def __call__(self, embedding: Tensor) -> Tensor:
        """(1, C, h, w) to (components, h, w)."""
        return torch.einsum("oc,chw->ohw", self.basis, embedding[0])

    def rows(
        self, embedding: Tensor, level: float = 0.0, positions: Tensor | None = None
    ) -> Tensor:
        """The unknowns' coefficients of a slice at a level: (P, unknowns), at every position of
        h * w or at some, by their indices."""
        patches = F.unfold(self(embedding)[None], self.kernel, padding=self.kernel // 2)[0]
        there = places(level, embedding.shape[-1], patches.device) if self.with_places else None
        if positions is not None:
            patches = patches[:, positions]
            there = None if there is None else there[positions]
        # Each of the kernel's positions sees nearly the same; without this the sum of squares
        # would grow with the kernel's size.
        rows = patches.new_ones(patches.shape[1], self.unknowns)
        torch.div(patches.T, self.kernel, out=rows[:, : len(patches)])
        if there is not None:
            rows[:, len(patches) + 1 :] = there
        return rows

    def mapped(self, components: Tensor, tau: Tensor, level: float) -> Tensor:
        """What tau (N, D, M) makes of a square slice's components (F, h, w) at a level: memory
        features (N, M, h, w).

        The same as `rows(embedding, level) @ tau`, as the convolution it is: forming the rows
        takes six times as long.
        """
        return self.with_level(self.mapped_features(components, tau), tau, level)

    def mapped_features(self, components: Tensor, tau: Tensor) -> Tensor:
        """The part of `mapped` that features make."""
        count, _, channels = tau.shape
        size = len(components) * self.kernel**2
        weights = tau[:, :size].transpose(1, 2) / self.kernel
        found = F.conv2d(
            components[None],
            weights.reshape(-1, len(components), self.kernel, self.kernel),
            tau[:, size].flatten(),
            padding=self.kernel // 2,
        )
        return found.view(count, channels, *components.shape[-2:])

    def with_level(self, found: Tensor, tau: Tensor, level: float) -> Tensor:
        """`mapped`, from the part that features make (N, M, h, w): places are added if known."""
        if not self.with_places:
            return found
        weights = tau[:, self.basis.shape[0] * self.kernel**2 + 1 :]
        return found + through_places(weights, level, found.shape[-1])


@dataclass(frozen=True)
class NormalEquations:
    """The quadratic loss over all samples, for N structures.

    gram: (N, D, D), weighted mean of x x' over positions. moment: (N, D, M), of x e'.
    """

    gram: Tensor
    moment: Tensor

    @classmethod
    def of(
        cls,
        rows: Tensor,
        wanted: Tensor,
        near: Tensor | None = None,
        balance: PositionWeights | None = None,
    ) -> NormalEquations:
        """Of one slice: rows (P, D), memory features wanted (N, M, h, w) or, at P positions,
        (N, M, P).

        near: (N, P) bool, `near_foreground_mask`, for a balance; without it all positions count
        the same.
        """
        total = NormalEquationsAccumulator()
        total.add(rows, wanted.flatten(2), near, balance)
        return total.mean()

    def plus(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(self.gram + other.gram, self.moment + other.moment)

    def of_structures(self, index: list[int]) -> NormalEquations:
        return NormalEquations(self.gram[index], self.moment[index])

    def closed_form(self, regulariser: float = REGULARISER) -> Tensor:
        """The minimum: tau (N, D, M)."""
        ridge = _in_double(self.gram).clone()
        ridge.diagonal(dim1=1, dim2=2).add_(regulariser**2)
        # By Cholesky: the matrix is positive definite, and MKL's LU of so large a matrix hung in
        # a thread whose number of threads had been changed ("Parameter 6 ... DLASWP").
        factor = torch.linalg.cholesky(ridge)
        return torch.cholesky_solve(_in_double(self.moment), factor).to(self.moment)

    def steepest_descent(
        self, tau: Tensor, iterations: int, regulariser: float = REGULARISER
    ) -> Tensor:
        """`iterations` steps from tau (N, D, M), each to the exact minimum along the gradient
        (Gauss-Newton's alpha, exact because the loss is quadratic); alpha per structure."""
        for _ in range(iterations):
            gradient = self.gram @ tau - self.moment + regulariser**2 * tau
            square = gradient.square().sum(dim=(1, 2), keepdim=True)
            along = (gradient * (self.gram @ gradient)).sum(dim=(1, 2), keepdim=True)
            alpha = square / (along + regulariser**2 * square).clamp(min=1e-12)
            tau = tau - alpha * gradient
        return tau

    def loss(self, tau: Tensor, regulariser: float = REGULARISER) -> Tensor:
        """Half the mean square error plus penalty, up to a constant: (N,)."""
        quadratic = (tau * (self.gram @ tau)).sum(dim=(1, 2)) / 2
        linear = (tau * self.moment).sum(dim=(1, 2))
        return quadratic - linear + regulariser**2 * tau.square().sum(dim=(1, 2)) / 2


class NormalEquationsAccumulator:
    """Adds slices up in place: a matrix for each of many structures, anew for each of many slices,
    would take longer to make room for than to compute."""

    def __init__(self) -> None:
        self._slices = 0
        self._far: Tensor | None = None

    def add(
        self, rows: Tensor, wanted: Tensor, near: Tensor | None, balance: PositionWeights | None
    ) -> None:
        """A slice, or some of its positions: rows (P, D), wanted (N, M, P), near (N, P)."""
        count = len(wanted)
        if self._far is None:
            size = rows.shape[1]
            self._far = rows.new_zeros(size, size)
            self._more = rows.new_zeros(count if balance else 0, size, size)
            self._moment = rows.new_zeros(count, size, wanted.shape[1])
            self._share = rows.new_ones(count) if balance is None else balance.far
        self._slices += 1
        # The sum over all positions is one product for all structures; that over the few near one
        # of them costs little.
        self._far.addmm_(rows.T, rows, alpha=1 / len(rows))
        weights = self._share[:, None]
        if near is not None and balance is not None:
            weights = balance.weights(near)
            for n in range(count):
                more = float(balance.near[n] - balance.far[n])
                few = rows[near[n]]
                self._more[n].addmm_(few.T, few, alpha=more / len(rows))
        self._moment += ((wanted * weights[:, None]) @ rows).transpose(1, 2) / len(rows)

    def mean(self) -> NormalEquations:
        """Over the slices added so far, of which there must be one."""
        assert self._far is not None
        gram = self._far * self._share[:, None, None]
        if len(self._more):
            gram += self._more
        return NormalEquations(gram / self._slices, self._moment / self._slices)


@dataclass(frozen=True)
class MappingNetwork:
    """T_tau for N structures, with the samples it was fitted to.

    tau: (N, D, M). support: of the annotated slices. online: of predicted slices, zero before the
    first. support_weight: (N,), the share that the annotated slices still have. balance: of
    positions, in both.
    """

    head: PcaFeatureMap
    tau: Tensor
    support: NormalEquations
    online: NormalEquations
    support_weight: Tensor
    balance: PositionWeights
    regulariser: float

    @classmethod
    def start(
        cls,
        head: PcaFeatureMap,
        tau: Tensor,
        support: NormalEquations,
        balance: PositionWeights,
        regulariser: float,
    ) -> MappingNetwork:
        online = NormalEquations(torch.zeros_like(support.gram), torch.zeros_like(support.moment))
        weight = torch.ones(len(tau), device=tau.device)
        return cls(head, tau, support, online, weight, balance, regulariser)

    def __call__(self, embedding: Tensor, level: float = 0.0) -> Tensor:
        """E2 before lifting: a slice's features (1, C, h, w), standardised, at a level along the
        body to memory features (N, M, h, w)."""
        return self.of_components(self.head(embedding), level)

    def of_components(self, components: Tensor, level: float) -> Tensor:
        """The same from the features' components (F, h, w)."""
        return self.head.mapped(components, self.tau, level)

    def update(
        self,
        rows: Tensor,
        remembered: Tensor,
        near: Tensor,
        trusted: list[int],
        iterations: int,
    ) -> MappingNetwork:
        """Take a slice in as a sample for the structures in `trusted`, and descend.

        rows: (P, D), at all positions of the slice or some. remembered: memory features of the
        prediction there, (N, M, P). near: (N, P), `near_foreground_mask` of the prediction.
        """
        if not trusted or iterations == 0:
            return self
        balance = self.balance.of_structures(trusted)
        sample = NormalEquations.of(rows, remembered[trusted], near[trusted], balance)
        online = NormalEquations(self.online.gram.clone(), self.online.moment.clone())
        online.gram[trusted] = (1 - NEW_SAMPLE) * online.gram[trusted] + NEW_SAMPLE * sample.gram
        online.moment[trusted] = (1 - NEW_SAMPLE) * online.moment[
            trusted
        ] + NEW_SAMPLE * sample.moment
        weight = self.support_weight.clone()
        weight[trusted] = weight[trusted] * (1 - NEW_SAMPLE)
        updated = replace(self, online=online, support_weight=weight)
        tau = self.tau.clone()
        tau[trusted] = updated._equations(trusted).steepest_descent(
            tau[trusted], iterations, self.regulariser
        )
        return replace(updated, tau=tau)

    def _equations(self, index: list[int]) -> NormalEquations:
        """All samples with their weights. `online` holds shares that sum to 1 - support_weight."""
        support = self.support.of_structures(index)
        weight = self.support_weight[index][:, None, None]
        kept = weight.clamp(min=LEAST_SUPPORT)
        scale = (1 - kept) / (1 - weight).clamp(min=1e-6)
        return NormalEquations(
            kept * support.gram + scale * self.online.gram[index],
            kept * support.moment + scale * self.online.moment[index],
        )


def _in_double(matrices: Tensor) -> Tensor:
    """On the CPU: Apple's GPUs have no double precision. They are solved once, in learning."""
    return matrices.cpu().double()


def _outer(rows: Tensor) -> Tensor:
    return rows.T @ rows


def mean_equations(equations: Sequence[NormalEquations]) -> NormalEquations:
    """Normal equations in which each of several counts the same."""
    total = equations[0]
    for each in equations[1:]:
        total = total.plus(each)
    return NormalEquations(total.gram / len(equations), total.moment / len(equations))
