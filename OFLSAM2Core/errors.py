"""Errors that a user can act on.

Every error raised on purpose by this package is an `OFLSAM2Error`: it says what happened and to
what (`message`), and what to do next (`hint`). The command line prints the two and exits with
code 2; the worker sends them as a `failed` event; a traceback is for bugs only.
"""

from __future__ import annotations


class OFLSAM2Error(Exception):
    """Base of all errors a user can act on.

    `kind` is a short stable word for programs (the worker's `failed` event carries it).
    """

    kind = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InputError(OFLSAM2Error):
    """A file, volume, segmentation or option given by the user cannot be used as it is."""

    kind = "input"


class WeightsError(OFLSAM2Error):
    """A backbone's weights are missing, damaged, or not those that were asked for."""

    kind = "weights"


class TaskError(OFLSAM2Error):
    """A learned task cannot be read, or does not fit the backbone or the volume."""

    kind = "task"


class ResourceError(OFLSAM2Error):
    """The machine lacks something: a GPU that was asked for, memory, disk space."""

    kind = "resource"


class Cancelled(OFLSAM2Error):  # noqa: N818  It is no fault: the caller asked for it.
    """The caller asked to stop. Raised by a progress callback, passed through unchanged."""

    kind = "cancelled"

    def __init__(self, message: str = "Cancelled.", hint: str = "") -> None:
        super().__init__(message, hint)
