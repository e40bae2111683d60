"""A package that brings a method, as pip leaves one, and cases for that method."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume

METADATA = "Metadata-Version: 2.1\nName: oflsam2-toy\nVersion: 1.0\n"
ENTRY_POINTS = (
    "[oflsam2.methods]\ntoy-threshold = toy_method:ToyMethod\nbroken = nowhere_at_all:Method\n"
)


def install(folder: Path) -> None:
    """Make a folder as pip leaves one: a module, and what was registered with it."""
    (folder / "oflsam2_toy-1.0.dist-info").mkdir(parents=True)
    (folder / "oflsam2_toy-1.0.dist-info" / "METADATA").write_text(METADATA)
    (folder / "oflsam2_toy-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    shutil.copy(Path(__file__).with_name("toy_method.py"), folder)


def case_of(seed: int) -> SupportCase:
    """A bright box in a dark volume."""
    array = np.random.default_rng(seed).normal(10, 1, (6, 20, 24)).astype(np.float32)
    labels = np.zeros(array.shape, np.uint8)
    labels[2:4, 5:12, 6:18] = 1
    array[labels > 0] += 20
    return SupportCase(Volume(array, name=f"case {seed}"), labels, (Structure("box", 1),))
