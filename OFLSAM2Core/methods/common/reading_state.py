"""Reading what a method learned back from a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.method_state import MethodState


@contextmanager
def reading(state: MethodState, version: int) -> Iterator[None]:
    """Raises TaskError where the state is of another version of the method, or where the block
    finds something missing or of another type or shape (KeyError, IndexError, TypeError,
    ValueError, RuntimeError)."""
    if state.version != version:
        raise TaskError(
            "The task was learned by another version of this method "
            f"({state.version}; this program reads {version}).",
            "Learn it again from the support cases.",
        )
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise TaskError(
            "The learned task lacks a part, or a part has another shape.",
            "Learn it again from the support cases.",
        ) from error
