"""What a method learned, as a learned task holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class MethodState:
    """All that a method learned, ready to be written to a file.

    version: of the method's own format; a method refuses versions that it does not know.
    metadata: plain JSON. tensors: by name. summary: what a person wants to know of it, as plain
        values by name ("slicing axis": "axial").
    """

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    summary: dict[str, Any] = field(default_factory=dict)
