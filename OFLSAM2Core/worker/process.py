"""A child process that can be ended together with everything it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from OFLSAM2Core.errors import InputError

GRACE_S = 0.5  # between asking a process to end and killing it


def start_process(
    command: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: str | Path | None,
    inherited: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command` with raw pipes on its three streams, in a process group of its own.

    inherited: descriptors that it inherits (POSIX).

    Raises InputError where the command cannot be started.
    """
    try:
        return subprocess.Popen(
            list(command),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            pass_fds=inherited,
            start_new_session=os.name == "posix",
            creationflags=_windows_flags(),
        )
    except OSError as error:
        raise InputError(
            f"The worker's command '{command[0]}' cannot be started: {error.strerror or error}.",
            "Check the Python or command given for the worker.",
        ) from error


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all its descendants, without waiting for their end.

    On POSIX its process group, and with psutil also descendants that left the group; on Windows
    what `taskkill /T` finds.
    """
    if sys.platform == "win32":
        if process.poll() is not None:  # a tree is known by its root
            return
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(process.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=subprocess.CREATE_NO_WINDOW,
            check=False,
        )
    else:
        strays = _descendants(process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        _kill(strays)
    process.kill()


def kill_own_descendants() -> None:
    """Kill all that this process has started and that still runs; needs psutil."""
    _kill(_descendants(os.getpid()))


def end_process(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Give a process that was asked to end `timeout_s`, then terminate it, then kill its tree."""
    try:
        process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)
    kill_tree(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE_S)


def exit_in_words(code: int | None) -> str:
    """Why a process ended, from its exit code as `subprocess` gives it."""
    if code is None:
        return "The worker closed its output."
    # A shell or ssh reports death by signal N as 128 + N.
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    if number == 9:
        return "The worker was ended by the system (signal 9), most likely because memory ran out."
    if number:
        return f"The worker was ended by signal {number} ({_signal_name(number)})."
    if os.name == "nt" and code >= 0xC0000000:
        return f"The worker crashed (exit code 0x{code:08X})."
    return f"The worker ended by itself with exit code {code}."


def _signal_name(number: int) -> str:
    try:
        return signal.strsignal(number) or signal.Signals(number).name
    except ValueError:
        return "unknown"


def _descendants(pid: int) -> list[int]:
    try:
        import psutil  # optional: Slicer's Python may lack it
    except ImportError:
        return []
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                os.kill(pid, signal.SIGTERM)  # there, too, without asking the process
            else:
                os.kill(pid, signal.SIGKILL)


def _windows_flags() -> int:
    if sys.platform != "win32":
        return 0
    return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
