"""Small cohorts on disk, and `oflsam2 cohort` as real processes with the toy method."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

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
        learned = self.run("learn", *self.support, "--out", self.task)
        assert learned.returncode == 0, learned.stderr
        self.log.unlink()

    def start(self, *words: object, **more: str) -> subprocess.Popen[str]:
        """`oflsam2 WORDS...` in a session of its own, as a terminal would start it."""
        return subprocess.Popen(
            [sys.executable, "-m", "OFLSAM2Core", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **more},
            start_new_session=True,
        )

    def run(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **more) as process:
            try:
                out, err = process.communicate(timeout=300)
            finally:
                process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def cohort(self, inputs: object, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
        return self.run("cohort", inputs, "--task", self.task, "--out", out, *more)

    def begun(self) -> Counter[str]:
        """How often each case was begun, by its file's name."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[0] for line in lines)
