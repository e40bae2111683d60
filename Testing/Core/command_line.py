"""Running the command line as a user does: real processes, real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment},
    )


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    with start(*words, **environment) as process:
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
    said, complained = (text.decode().replace(os.linesep, "\n") for text in (out, err))
    return subprocess.CompletedProcess(process.args, process.returncode, said, complained)


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
