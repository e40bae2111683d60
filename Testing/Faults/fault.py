"""What goes wrong in a run of the command line, and how the run ended: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a run, and when.

    signals: numbers, sent in turn, each `at` seconds after the one before; with `nth` all of them
        when the nth file is opened for writing, folder made or file renamed.
    slice: with it, the signals come when the method begins with its nth slice; slices of the second
        pass count on.
    error: an errno that the nth such call ends with.
    memory: bytes more than it has that the process may map.
    file_size: bytes that a file may grow to, as on a full disk.
    stdout, stderr: "closed", "full" (a device without space), "no reader" or "kept".
    """

    signals: tuple[int, ...] = ()
    at: float = 0.0
    nth: int = 0
    slice: int = 0
    error: int = 0
    memory: int = 0
    file_size: int = 0
    stdout: str = "kept"
    stderr: str = "kept"


@dataclass
class Ended:
    """How a run ended.

    code: its exit code, negative for a signal. seconds: from its start. hung: it had to be killed.
    left: processes of its session that live on. temporary: names of temporary files and folders
    that are still there.
    """

    code: int
    out: str
    err: str
    seconds: float
    hung: bool = False
    left: list[int] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
