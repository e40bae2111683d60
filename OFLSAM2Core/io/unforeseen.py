"""The last net under readers: whatever a file is, reading it ends in a result or in words."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from OFLSAM2Core.errors import OFLSAM2Error, ResourceError
from OFLSAM2Core.io.image_header import damaged

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)


def in_words(read: Callable[P, T]) -> Callable[P, T]:
    """A reader, called with a path first, that raises nothing but OFLSAM2Error.

    Errors that it does not expect come of content that nobody foresaw: to a user that is a damaged
    file. The log keeps where it happened.
    """

    @functools.wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        path = Path(str(args[0]))
        try:
            return read(*args, **kwargs)
        except OFLSAM2Error:
            raise
        except MemoryError as error:
            raise ResourceError(
                f"There is not enough memory to read '{path}'.",
                "Close other programs, or crop it.",
            ) from error
        except RecursionError as error:
            raise damaged(path, "it is nested too deeply") from error
        except Exception as error:
            _log.info("A file could not be read", exc_info=True)
            raise damaged(path, _reason(error)) from error

    return reading


def _reason(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error).strip().split("\n", 1)[0].rstrip(".")
    return (text or type(error).__name__)[:200]
