"""Runs of the command line in which something goes wrong, each in a child forked from a process
that has everything imported, as in program_server.py.

Requests come as lines of JSON on standard input, answers go as lines to standard output.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from fault import Ended, Fault
from program_server import import_everything

import OFLSAM2Core.methods as methods

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    add_method()
    import_everything()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        request = json.loads(line)
        request["fault"]["signals"] = tuple(request["fault"]["signals"])
        fault = Fault(**request["fault"])
        ended = run(request["words"], Path(request["folder"]), fault, request["limit_s"])
        answers.write(json.dumps(vars(ended)) + "\n")


def add_method() -> None:
    """Make the method of intensity_method.py one of another package, as such packages do."""
    folder = Path(tempfile.mkdtemp(prefix="methods-"))
    info = folder / "nearest_intensity-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nearest-intensity\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{methods.GROUP}]\nnearest-intensity = intensity_method:NearestIntensity\n"
    )
    sys.path[:0] = [str(folder), str(FOLDER)]


def run(words: list[str], folder: Path, fault: Fault, limit_s: float) -> Ended:
    """`oflsam2 WORDS...` in a child process whose current and temporary folder is in `folder`."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    streams = [folder / f".{name}-{os.getpid()}" for name in ("out", "err")]
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _in_child(words, folder, fault, streams)
        finally:
            os._exit(code)
    code, hung = _wait(child, started + limit_s)
    seconds = time.monotonic() - started
    left = _session_of(child)
    out, err = (path.read_text(errors="replace") if path.exists() else "" for path in streams)
    for path in streams:
        path.unlink(missing_ok=True)
    kept = [p.name for p in folder.rglob("*") if p.name.startswith((".writing-", "oflsam2-"))]
    return Ended(code, out, err, seconds, hung, left, kept)


def _in_child(words: list[str], folder: Path, fault: Fault, streams: list[Path]) -> int:
    os.setsid()
    os.chdir(folder)
    os.environ.update(OFLSAM2_LOG_DIR=str(folder / "logs"), TMPDIR=str(folder / "tmp"))
    tempfile.tempdir = None
    for number, how, path in ((1, fault.stdout, streams[0]), (2, fault.stderr, streams[1])):
        _redirect(number, how, path)
    from OFLSAM2Core.cli.main import main

    _arm(fault)
    try:
        return int(main(words))
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def _redirect(number: int, how: str, path: Path) -> None:
    """And Python's stream of that number made anew, as at the start of a program."""
    name = "stdout" if number == 1 else "stderr"
    if how == "closed":
        os.close(number)
        setattr(sys, name, None)
        return
    if how == "no reader":
        reading, target = os.pipe()
        os.close(reading)
    elif how == "full":
        target = os.open("/dev/full", os.O_WRONLY)
    else:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, number)
    os.close(target)
    stream = open(number, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)


def _arm(fault: Fault) -> None:
    if fault.memory:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + fault.memory,) * 2)
    if fault.file_size:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_size,) * 2)
    if fault.nth:
        _at_write(fault)
    elif fault.slice:
        import intensity_method

        intensity_method.at_slice = fault.slice
        intensity_method.signals = fault.signals
    elif fault.signals:
        thread = threading.Thread(target=_send, args=(fault,), daemon=True)
        thread.start()


def _send(fault: Fault) -> None:
    # Until then the program has not begun: Python itself ends it.
    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.0001)
    for number in fault.signals:
        time.sleep(fault.at)
        os.kill(os.getpid(), number)


def _at_write(fault: Fault) -> None:
    seen = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal seen
        if event not in ("open", "os.rename", "os.mkdir"):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & os.O_ACCMODE):
            return
        if event == "open" and str(args[0]).startswith("/dev/"):
            return
        seen += 1
        if seen == fault.nth:
            for number in fault.signals:
                os.kill(os.getpid(), number)
            if fault.error:
                raise OSError(fault.error, os.strerror(fault.error))

    sys.addaudithook(hook)


def _wait(child: int, deadline: float) -> tuple[int, bool]:
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), True


def _session_of(session: int) -> list[int]:
    for _ in range(40):
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == session and process.status() != "zombie":
                    found.append(process.pid)
            except (OSError, psutil.Error):
                continue
        if not found:
            return []
        time.sleep(0.05)
    return found


if __name__ == "__main__":
    main()
