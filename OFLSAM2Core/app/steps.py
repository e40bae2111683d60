"""Work cut into steps, so that the panel can go on between them.

The panel must not stand still for more than 50 ms; what takes longer is a generator that yields
after each piece.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]


def run_steps(steps: Steps[T], between: Callable[[], None] = lambda: None) -> T:
    """Go through all steps at once, and return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        between()
