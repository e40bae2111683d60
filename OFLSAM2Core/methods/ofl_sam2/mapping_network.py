"""The mapping network T_tau (online branch): one convolution, image features to memory features.

It is fitted by steepest descent on the loss of LWL (Bhat et al. 2020), which LLB, by the same first
author, takes over:

    L(tau) = 1/2 sum_t w_t |T_tau(x_t) - e_t|^2 + 1/2 lambda^2 |tau|^2

x_t: image features of a slice whose segmentation is known or confidently predicted, e_t: its memory
features. The loss is quadratic in tau, so all slices seen so far are held by two matrices, the
normal equations, and a step on these is the same step as on the slices themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

LAMBDA = 1e-2
"""The value of LWL and LLB. It multiplies tau inside the residual."""

NEW_SAMPLE = 0.1
"""LWL's weight of a new slice: a tenth of all."""

LEAST_SUPPORT = 0.75
"""Share of all weight that the annotated slices never fall below. LWL has a quarter, with a first
frame that shows the very object; here it is another patient's (docs/experiments/other-sets.md)."""

POSITIONS = 1300
"""About as many of a slice's positions are fitted on, for time: a 3 x 3 kernel on 256 channels has
2305 unknowns. Not a divisor of the grid's side, so that all columns take part."""


def rows(features: Tensor, kernel: int) -> Tensor:
    """Features (1, C, h, w) as the rows of a least-squares problem, one a position: (h w, D).

    A row is the kernel's neighbourhood of a position, scaled by sqrt(1 / (C k^2)) as LWL scales its
    features so that lambda weighs the same on every backbone, and 1 for the bias.
    """
    patches = F.unfold(features.float(), kernel, padding=kernel // 2)[0].T
    scaled = patches / patches.shape[1] ** 0.5
    return torch.cat([scaled, scaled.new_ones(len(scaled), 1)], dim=1)


def convolve(features: Tensor, tau: Tensor, kernel: int) -> Tensor:
    """T_tau: `rows(features) @ tau`, as the convolution it is.

    features: (1, C, h, w). tau: (N, D, M) of N structures. Returns (N, M, h, w).
    """
    count, size, channels = tau.shape
    inputs = features.shape[1]
    weights = tau[:, :-1].transpose(1, 2).reshape(-1, inputs, kernel, kernel)
    found = F.conv2d(
        features.float(), weights / (size - 1) ** 0.5, tau[:, -1].flatten(), padding=kernel // 2
    )
    return found.view(count, channels, *features.shape[-2:])


@dataclass(frozen=True)
class NormalEquations:
    """The loss of all samples: gram (N or 1, D, D), the weighted mean of x x' over positions, and
    moment (N, D, M), of x e'."""

    gram: Tensor
    moment: Tensor

    @classmethod
    def of_slice(cls, features: Tensor, memory: Tensor, kernel: int) -> NormalEquations:
        """One slice: features x (1, C, h, w), memory features e (N, M, h, w).

        Where there are many positions an even part is taken: neighbours are much the same.
        """
        every = max(1, memory[0, 0].numel() // POSITIONS)
        own = rows(features, kernel)[every // 2 :: every]
        wanted = memory.float().flatten(2)[..., every // 2 :: every]
        return cls((own.T @ own / len(own))[None], (wanted @ own).transpose(1, 2) / len(own))

    def plus(
        self, other: NormalEquations, own: float = 1.0, others: float = 1.0
    ) -> NormalEquations:
        """Both, weighted."""
        return NormalEquations(
            own * self.gram + others * other.gram, own * self.moment + others * other.moment
        )

    def of(self, structures: list[int]) -> NormalEquations:
        """Those of some of the N structures."""
        gram = self.gram if len(self.gram) == 1 else self.gram[structures]
        return NormalEquations(gram, self.moment[structures])

    def steepest_descent(self, tau: Tensor, iterations: int) -> Tensor:
        """tau after `iterations` steps tau - alpha g along the gradient g = J'r, with the
        Gauss-Newton step alpha = g.g / |J g|^2, which is the exact minimum along g.

        tau: (N, D, M). Structures are problems of their own, each with its alpha.
        """
        for _ in range(iterations):
            gradient = self.gram @ tau - self.moment + LAMBDA**2 * tau
            square = gradient.square().sum(dim=(1, 2), keepdim=True)
            along = (gradient * (self.gram @ gradient)).sum(dim=(1, 2), keepdim=True)
            tau = tau - square / (along + LAMBDA**2 * square).clamp(min=1e-12) * gradient
        return tau

    def minimum(self) -> Tensor:
        """The tau (N, D, M) to which steepest descent converges, by one solve (closed form)."""
        gram = self.gram.double().cpu()
        ridge = gram + LAMBDA**2 * torch.eye(gram.shape[-1], dtype=gram.dtype)
        factor = torch.linalg.cholesky(ridge).expand(len(self.moment), -1, -1)
        return torch.cholesky_solve(self.moment.double().cpu(), factor).to(self.moment)

    def loss(self, tau: Tensor) -> Tensor:
        """L(tau) of each structure, up to a constant: (N,)."""
        quadratic = (tau * (self.gram @ tau)).sum(dim=(1, 2)) / 2
        penalty = LAMBDA**2 * tau.square().sum(dim=(1, 2)) / 2
        return quadratic - (tau * self.moment).sum(dim=(1, 2)) + penalty


@dataclass(frozen=True)
class MappingNetwork:
    """T_tau of N structures, and the samples it was fitted to.

    tau: (N, D, M). support: of the annotated slices, gram (1, D, D). online: of predicted slices,
    for each structure; None before the first. support_weight: (N,), the share of all weight that
    the annotated slices have left; `online` holds the rest.
    """

    kernel: int
    tau: Tensor
    support: NormalEquations
    online: NormalEquations | None
    support_weight: Tensor

    @classmethod
    def fit(
        cls, support: NormalEquations, kernel: int, iterations: int, closed_form: bool
    ) -> MappingNetwork:
        """Fitted to the support, from zero as in LWL."""
        if closed_form:
            tau = support.minimum()
        else:
            tau = support.steepest_descent(torch.zeros_like(support.moment), iterations)
        return cls(kernel, tau, support, None, tau.new_ones(len(tau)))

    def __call__(self, features: Tensor) -> Tensor:
        """E2 before the lift: features (1, C, h, w) to memory features (N, M, h, w)."""
        return convolve(features, self.tau, self.kernel)

    def update(
        self, features: Tensor, memory: Tensor, structures: list[int], iterations: int
    ) -> MappingNetwork:
        """Online update: a confident slice joins the samples, and tau takes some steps.

        features: (1, C, h, w). memory: memory features of the prediction, (N, M, h, w).
        structures: those that passed the quality gate.
        """
        if not structures or iterations == 0:
            return self
        sample = NormalEquations.of_slice(features, memory, self.kernel)
        online = self.online or NormalEquations(
            torch.zeros_like(self.support.gram).repeat(len(self.tau), 1, 1),
            torch.zeros_like(self.support.moment),
        )
        gram, moment = online.gram.clone(), online.moment.clone()
        mixed = online.of(structures).plus(sample.of(structures), 1 - NEW_SAMPLE, NEW_SAMPLE)
        gram[structures], moment[structures] = mixed.gram, mixed.moment
        weight, tau = self.support_weight.clone(), self.tau.clone()
        weight[structures] *= 1 - NEW_SAMPLE
        updated = replace(self, online=NormalEquations(gram, moment), support_weight=weight)
        equations = updated._equations(structures)
        tau[structures] = equations.steepest_descent(tau[structures], iterations)
        return replace(updated, tau=tau)

    def _equations(self, structures: list[int]) -> NormalEquations:
        """All samples of some structures, the annotated ones with LEAST_SUPPORT at least."""
        assert self.online is not None
        weight = self.support_weight[structures][:, None, None]
        kept = weight.clamp(min=LEAST_SUPPORT)
        others = (1 - kept) / (1 - weight).clamp(min=1e-6)
        support, online = self.support.of(structures), self.online.of(structures)
        return NormalEquations(
            kept * support.gram + others * online.gram,
            kept * support.moment + others * online.moment,
        )
