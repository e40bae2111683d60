"""Cases that are real and quick, and a task learned from them through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from command_line import QUICK, succeed, support
from toy_package import install

from OFLSAM2Core.evaluation.datasets import sample_data


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The maps in tests are so small that more threads only wait for each other: two threads on two
    busy cores take 7 times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample data cut down to a few axial slices, as a data set: real, and quick."""
    folder = tmp_path_factory.mktemp("cases")
    dataset = sample_data()
    for name in (*dataset.support, *dataset.test):
        case = dataset.read_case(name)
        middle = int(np.median(np.nonzero(case.labels)[0]))
        for kind in ("image", "label"):
            image = sitk.ReadImage(str(dataset.folder / f"{name}_{kind}.nii.gz"))
            sitk.WriteImage(image[:, :, middle - 3 : middle + 3], folder / f"{name}_{kind}.nii.gz")
    content = json.loads((dataset.folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def task(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "hippocampus.oflsam2"
    printed = succeed("learn", *support(cases, "001", "003"), "--out", path, *QUICK)
    assert "Learned anterior hippocampus, posterior hippocampus" in printed
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a package that brings a method is installed."""
    folder = tmp_path / "site"
    install(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder
