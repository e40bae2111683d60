"""How many inputs the fuzz tries, always the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings


def fixed(examples: int) -> Callable[[Any], Any]:
    """`examples` inputs of a fixed seed; OFL-SAM2 is slower than hypothesis likes."""

    def decorate(test: Any) -> Any:
        chosen = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        return seed(20251)(chosen(test))

    return decorate
