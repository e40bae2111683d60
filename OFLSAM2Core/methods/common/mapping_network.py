"""The mapping network of the default method: one convolution from image features to masks.

Where place helps it sees besides where positions lie (slice_position/encoding.py), which enters as
linearly. It is fitted, not trained: its loss (mean square error over the positions of known slices,
plus lambda^2 |tau|^2) is quadratic in tau, so all samples are held by two matrices, the normal
equations, to which those of corrected slices are added exactly. The paper's own mapping network, by
steepest descent, is methods/ofl_sam2/mapping_network.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.common.class_balance import PositionWeights
from OFLSAM2Core.slice_position.encoding import PLACES, rbf_encoding

REGULARISER = 1e-2
"""lambda of LWL and LLB: it multiplies tau inside the residual."""


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
        self, embedding: Tensor, slice_position: float = 0.0, positions: Tensor | None = None
    ) -> Tensor:
        """The unknowns' coefficients of a slice, (P, unknowns), at all h * w positions or at those
        with the indices `positions`."""
        patches = F.unfold(self(embedding)[None], self.kernel, padding=self.kernel // 2)[0]
        there = None
        if self.with_places:
            there = rbf_encoding(slice_position, embedding.shape[-1], patches.device)
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

    def mapped_features(self, components: Tensor, tau: Tensor) -> Tensor:
        """What tau (N, D, M) makes of components (F, h, w) without places: (N, M, h, w).

        The same as `rows(embedding) @ tau`, as the convolution it is: forming the
        rows takes six times as long.
        """
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


@dataclass(frozen=True)
class NormalEquations:
    """The quadratic loss over all samples, for N structures.

    gram: (N, D, D), weighted mean of x x' over positions. moment: (N, D, M), of x e'.
    """

    gram: Tensor
    moment: Tensor

    def plus(self, other: NormalEquations) -> NormalEquations:
        return NormalEquations(self.gram + other.gram, self.moment + other.moment)

    def closed_form(self, regulariser: float = REGULARISER) -> Tensor:
        """The minimum: tau (N, D, M)."""
        ridge = _in_double(self.gram).clone()
        ridge.diagonal(dim1=1, dim2=2).add_(regulariser**2)
        # By Cholesky: the matrix is positive definite, and MKL's LU of so large a matrix hung in
        # a thread whose number of threads had been changed ("Parameter 6 ... DLASWP").
        factor = torch.linalg.cholesky(ridge)
        return torch.cholesky_solve(_in_double(self.moment), factor).to(self.moment)


class NormalEquationsAccumulator:
    """Adds slices up in place: to allocate a matrix for each structure and each slice would take
    longer than to compute it."""

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
