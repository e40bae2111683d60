"""Parts of a set of tensors, by what their names begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def named(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` as "part.name"."""
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Those named "part.name", by name: the inverse of `named`."""
    prefix = f"{part}."
    return {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
