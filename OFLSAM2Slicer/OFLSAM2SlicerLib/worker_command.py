"""How the worker is started: with Slicer's own Python, another Python, or any command."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.python_command import python_command

MODULE = "OFLSAM2Core.worker"


@dataclass(frozen=True)
class WorkerCommand:
    """Command and environment of the worker's process; the client adds where the core is."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_python(self) -> bool:
        """Whether it is a Python of this computer, rather than a command of any kind."""
        return self.uses_slicer_python or (len(self.command) > 1 and self.command[-1] == MODULE)

    @property
    def uses_slicer_python(self) -> bool:
        return bool(self.command) and self.command[0] == slicer_python()


def worker_command(
    custom: str, outside_environment: Callable[[], Mapping[str, str]] = lambda: os.environ
) -> WorkerCommand:
    """custom: "" for Slicer's Python, the path of another Python, or a command such as
    `ssh gpu-host oflsam2 worker`.

    outside_environment: the environment for programs that are not Slicer's; Slicer's own
        PYTHONHOME and library paths break other Pythons (`slicer.util.startupEnvironment`).
    Raises InputError where quotes are not closed.
    """
    custom = custom.strip()
    if not custom:
        return WorkerCommand(_running_worker(slicer_python()), dict(os.environ))
    if is_python(custom):
        return WorkerCommand(_running_worker(custom), dict(outside_environment()))
    try:
        words = shlex.split(custom, posix=os.name == "posix")
    except ValueError as error:
        raise InputError(
            f"The worker command cannot be read: {custom} ({error}).",
            "Close its quotes, or leave it empty to use Slicer's own Python.",
        ) from error
    if os.name != "posix":
        words = [word.strip('"') for word in words]  # Kept by shlex, but not part of the path.
    return WorkerCommand(tuple(words), dict(outside_environment()))


def _running_worker(python: str) -> tuple[str, ...]:
    return tuple(python_command(MODULE, python=python))


def slicer_python() -> str:
    """PythonSlicer, the console Python that comes with Slicer; outside Slicer this Python."""
    return shutil.which("PythonSlicer") or sys.executable


def is_python(command: str) -> bool:
    """Whether this is the path of a Python interpreter, rather than a command with arguments."""
    path = Path(command)
    return path.is_file() and path.name.lower().startswith(("python", "pypy"))
