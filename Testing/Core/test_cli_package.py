"""The package as it is installed: a wheel built from these sources, away from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command_line import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, sources = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("sources")
    # A copy: a build leaves folders behind, and takes what an earlier one has left.
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("OFLSAM2Core", "Resources/SampleData"):
        shutil.copytree(ROOT / name, sources / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", str(folder), str(sources),
        ],
        check=True,
    )  # fmt: skip
    (path,) = folder.glob("oflsam2-*.whl")
    return path


def test_the_wheel_holds_every_module_and_all_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("OFLSAM2Core/")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "OFLSAM2Core").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    samples = {
        f"OFLSAM2Core/sample_data/{path.name}"
        for path in (ROOT / "Resources" / "SampleData").iterdir()
    }
    assert len(samples) >= 12
    assert packed - sources - samples == set()
    assert (sources | samples) - packed == set(), "see packages in pyproject.toml"


def test_the_installed_package_works_away_from_its_sources(wheel, tmp_path):
    site = tmp_path / "site"
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site),
            str(wheel),
        ],
        check=True,
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = (
        "import OFLSAM2Core; from OFLSAM2Core.evaluation.datasets import sample_data;"
        "print(OFLSAM2Core.__file__); print(sample_data().folder)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(Path(line).is_relative_to(site) for line in done.stdout.splitlines())
    console = next(path for path in (site / "bin", site / "Scripts") if path.is_dir())
    (program,) = console.glob("oflsam2*")
    done = subprocess.run(
        [str(program), "backbones"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "litemedsam" in done.stdout
