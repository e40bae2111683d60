"""The order in which slices of a volume are predicted."""

from __future__ import annotations

from collections.abc import Iterator


def propagation_order(start: int, count: int) -> Iterator[tuple[int, int]]:
    """Slices outwards from `start`, both ways in turn: (index, direction), direction 0 first."""
    yield start, 0
    for distance in range(1, count):
        for direction in (1, -1):
            if 0 <= start + direction * distance < count:
                yield start + direction * distance, direction
