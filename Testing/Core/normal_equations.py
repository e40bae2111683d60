"""Normal equations of samples, as tests make them up."""

from __future__ import annotations

from torch import Tensor

from OFLSAM2Core.methods.common.class_balance import PositionWeights
from OFLSAM2Core.methods.common.mapping_network import NormalEquations, NormalEquationsAccumulator


def equations_of(
    rows: Tensor,
    wanted: Tensor,
    near: Tensor | None = None,
    balance: PositionWeights | None = None,
) -> NormalEquations:
    """The normal equations of one slice: rows (P, D), wanted (N, M, h, w) or (N, M, P), near
    (N, P)."""
    total = NormalEquationsAccumulator()
    total.add(rows, wanted.flatten(2), near, balance)
    return total.mean()
