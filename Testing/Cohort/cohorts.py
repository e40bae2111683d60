"""Small cohorts on disk, and `oflsam2 cohort` as real processes with the toy method."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from OFLSAM2Core.cli import cohort as cohort_command
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.io.reading import read_support_case
from OFLSAM2Core.session import FewShotSession

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def ball(size: int = 16, radius: float = 4.0, seed: int = 0) -> np.ndarray:
    """(size, size, size) int16: a bright ball in noise."""
    grid = np.indices((size, size, size)) - (size - 1) / 2
    noise = np.random.default_rng(seed).normal(0, 5, (size, size, size))
    return ((np.sqrt((grid**2).sum(axis=0)) < radius) * 200 + noise).astype(np.int16)


def write_image(path: Path, array: np.ndarray, spacing: float = 2.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([spacing] * 3)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def write_cases(folder: Path, *names: str, size: int = 16) -> Path:
    """A folder with a volume of each name; "empty" in a name leaves the ball out."""
    for number, name in enumerate(names):
        array = ball(size, 0 if "empty" in name else 4 + number % 3, seed=number)
        write_image(folder / f"{name}.nii.gz", array)
    return folder


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As a disk that is nearly full; POSIX only."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@dataclass
class Ended:
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Toy:
    """The toy method, installed for processes that these start; a task that it learned."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        installed = self.folder / "installed" / "cohort_toy-1.0.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: cohort-toy\nVersion: 1.0\n"
        )
        (installed / "entry_points.txt").write_text(
            "[oflsam2.methods]\ncohort-toy = cohort_toy:ToyMethod\n"
        )
        path = os.pathsep.join([str(ROOT), str(HERE), str(installed.parent)])
        self.log = self.folder / "begun.txt"
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "COHORT_TOY_LOG": str(self.log),
            "OMP_NUM_THREADS": "1",
        }
        image = write_image(self.folder / "support.nii.gz", ball())
        labels = write_image(self.folder / "labels.nii.gz", (ball() > 100).astype(np.uint8))
        self.support = ["--support", f"{image}={labels}", "--method", "cohort-toy"]
        self.task = self.folder / "toy.oflsam2"
        with self.installed():
            session = FewShotSession(method="cohort-toy", device="cpu")
            session.learn([read_support_case(image, labels)]).save(self.task)
        self.log.unlink()

    @contextlib.contextmanager
    def start(self, *words: object, **more: str) -> Iterator[subprocess.Popen[str]]:
        """`oflsam2 WORDS...` in a session of its own, as a terminal would start it; ended with all
        its children at the end of the block."""
        process = subprocess.Popen(
            [sys.executable, "-m", "OFLSAM2Core", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **more},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def run(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **more) as process:
            out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def cohort(self, inputs: object, out: Path, *more: object) -> Ended:
        """A cohort in a process of its own."""
        done = self.run("cohort", inputs, "--task", self.task, "--out", out, *more)
        return Ended(done.returncode, done.stdout, done.stderr)

    def here(self, *words: object) -> Ended:
        """The same command in this process, which is quicker: one case after the other."""
        parser = argparse.ArgumentParser()
        cohort_command.add_arguments(parser)
        args = parser.parse_args([str(word) for word in (*words, "--workers", "0")])
        args.quiet = True
        told = io.StringIO()
        with self.installed(), contextlib.redirect_stdout(told):
            try:
                return Ended(cohort_command.run(args), told.getvalue(), "")
            except OFLSAM2Error as error:
                return Ended(2, told.getvalue(), str(error))

    def cohort_here(self, inputs: object, out: Path, *more: object) -> Ended:
        return self.here(inputs, "--task", self.task, "--out", out, *more)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """The toy method in this process."""
        folder = str(self.folder / "installed")
        before = os.environ.get("COHORT_TOY_LOG")
        sys.path.insert(0, folder)
        os.environ["COHORT_TOY_LOG"] = str(self.log)
        try:
            yield
        finally:
            sys.path.remove(folder)
            os.environ.pop("COHORT_TOY_LOG")
            if before is not None:
                os.environ["COHORT_TOY_LOG"] = before

    def release(self) -> None:
        """Let cases go on that have "held" in their name."""
        Path(f"{self.log}.released").touch()

    def begun(self) -> Counter[str]:
        """How often each case was begun, by its file's name."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[0] for line in lines)
