"""Running the command line as a user does: real processes, real files."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600
"""Seconds that a run may take."""
QUICK = [
    *("--device", "cpu", "--preset", "fast"),
    *("--set", "training_steps=8", "--set", "encoded_slices=16", "--set", "atlas_prior=false"),
]
WITHOUT_BACKBONE = [*("--device", "cpu", "--method", "atlas", "--set", "slicing_axis=axial")]
"""A method that takes a second, for tests of what is around it."""
NAMES = ["anterior hippocampus", "posterior hippocampus"]


def start(
    *words: object, stderr: int = subprocess.PIPE, **environment: str
) -> subprocess.Popen[bytes]:
    """Start `oflsam2 WORDS...`; `environment` is set besides what is set here."""
    return subprocess.Popen(
        [sys.executable, "-m", "OFLSAM2Core", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=_environment(environment),
    )


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`oflsam2 WORDS...` to its end. On Linux it is a child of a process that has everything
    imported, which takes a tenth of the time; elsewhere libraries do not survive a fork."""
    if sys.platform == "linux":
        return _program_server().run(list(map(str, words)), _environment(environment))
    with start(*words, **environment) as process:
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    printed, complained = (text.decode().replace(os.linesep, "\n") for text in (out, err))
    return subprocess.CompletedProcess(process.args, process.returncode, printed, complained)


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **more}


class _ProgramServer:
    """A process of Testing/program_server.py, until the tests end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "Testing" / "program_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # More threads would not survive a fork.
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        atexit.register(self._close)

    def run(self, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
        assert self._process.stdin is not None and self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder, name) for name in ("stdout", "stderr")}
            paths = {name: str(path) for name, path in files.items()}
            request = {"words": words, "environment": environment, "limit_s": LIMIT_S, **paths}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            printed = {name: path.read_bytes().decode() for name, path in files.items()}
        return subprocess.CompletedProcess(["oflsam2", *words], code, **printed)

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


_program_server = functools.cache(_ProgramServer)


def succeed(*words: object, **environment: str) -> str:
    done = run(*words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def image(cases: Path, number: str) -> Path:
    return cases / f"hippocampus_{number}_image.nii.gz"


def labels(cases: Path, number: str) -> Path:
    return cases / f"hippocampus_{number}_label.nii.gz"


def support(cases: Path, *numbers: str) -> list[str]:
    words = []
    for number in numbers:
        words += ["--support", f"{image(cases, number)}={labels(cases, number)}"]
    return [*words, "--labels", str(cases / "dataset.json")]


def refused(done: subprocess.CompletedProcess[str], *named: str) -> None:
    """Exit code 2, at most two lines that name what is wrong, no traceback."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    # What a progress bar wrote and took back, with carriage returns, is not seen.
    lines = [line.rsplit("\r", 1)[-1] for line in done.stderr.strip().split("\n")]
    assert len(lines) <= 2 and lines[0].startswith("oflsam2: "), done.stderr
    for words in named:
        assert words in done.stderr
