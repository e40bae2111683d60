"""Running the command line as a user does: real processes, real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--device", "cpu", "--preset", "fast", "--epochs", "1"]
NAMES = ["anterior hippocampus", "posterior hippocampus"]


def start(*words: object, **more: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", "OFLSAM2Core", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **more},  # type: ignore[dict-item]
    )


def run(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    with start(*words, **more) as process:
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeed(*words: object, **more: object) -> str:
    done = run(*words, **more)
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
    # What a progress bar wrote and took back is not a line.
    lines = [line.rsplit("\r", 1)[-1] for line in done.stderr.strip().split("\n")]
    assert len(lines) <= 2 and lines[0].startswith("oflsam2: "), done.stderr
    for words in named:
        assert words in done.stderr
