"""Quick runs of the command line on small volumes, and a task for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from programs import Programs, tried
from quick_runs import METHOD, support


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """For the figures in docs/reliability.md."""
    told = ", ".join(f"{count} {how}" for how, count in sorted(tried.items()))
    if told:
        terminalreporter.write_line(f"Runs of the command line: {told}.")


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    with Programs() as programs:
        yield programs


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes of eight slices with a bright block each, as a data set."""
    folder = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0)
    for case in range(4):
        labels = np.zeros((8, 32, 32), np.uint8)
        labels[2:6, 8:20, 8 + case : 20 + case] = 1
        image = (labels * 100 + noise.normal(0, 5, labels.shape)).astype(np.int16)
        for name, array in (("image", image), ("label", labels)):
            made = sitk.GetImageFromArray(array)
            made.SetSpacing((1.0, 1.0, 2.0))
            sitk.WriteImage(made, str(folder / f"case{case}_{name}.nii.gz"))
    content = {"labels": {"1": "block"}, "support": ["case0", "case1"], "test": ["case2", "case3"]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def task(programs: Programs, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    words = ["learn", *support(data), "--out", "block.oflsam2", *METHOD]
    ended = programs.run(*words, folder=folder)
    assert ended.code == 0, ended.err
    return folder / "block.oflsam2"
