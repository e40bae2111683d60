"""What holds the repository together: file lists of the build, the packages of the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "Testing" / "Tools" / "cmake_file_lists.py"


def run_tool(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, words)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The parts of the repository that the build lists."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("OFLSAM2Core", "OFLSAM2Slicer", "Resources"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    return tmp_path


def test_every_file_of_core_and_module_is_installed_with_the_extension() -> None:
    # Run `python Testing/Tools/cmake_file_lists.py` where this fails.
    done = run_tool("--check")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "new",
    [
        "OFLSAM2Core/io/another.py",
        "OFLSAM2Core/backbones/another.json",
        "OFLSAM2Slicer/OFLSAM2SlicerLib/another.py",
        "OFLSAM2Slicer/Resources/Icons/another.png",
        "Resources/SampleData/another.nii.gz",
    ],
)
def test_a_new_file_is_missed_until_the_list_is_written_again(copy: Path, new: str) -> None:
    (copy / new).parent.mkdir(exist_ok=True)
    (copy / new).write_text("")
    done = run_tool("--check", "--root", copy)
    assert done.returncode == 1 and "CMakeLists.txt: file list differs" in done.stdout
    assert run_tool("--root", copy).returncode == 0
    assert run_tool("--check", "--root", copy).returncode == 0
    listed = (copy / "CMakeLists.txt").read_text() + (
        copy / "OFLSAM2Slicer" / "CMakeLists.txt"
    ).read_text()
    assert new.removeprefix("OFLSAM2Slicer/") + "\n" in listed


def test_a_file_that_has_gone_leaves_the_list(copy: Path) -> None:
    (copy / "OFLSAM2Core" / "errors.py").unlink()
    assert run_tool("--check", "--root", copy).returncode == 1
    run_tool("--root", copy)
    assert "OFLSAM2Core/errors.py" not in (copy / "CMakeLists.txt").read_text()


NAMED_FILE = re.compile(r"`((?:OFLSAM2Core|OFLSAM2Slicer|Testing|docs|examples)/[\w./-]*\w)`")


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/accuracy.md"]
)
def test_files_that_the_documentation_names_exist(page: str) -> None:
    named = set(NAMED_FILE.findall((ROOT / page).read_text(encoding="utf-8")))
    assert named or page != "docs/architecture.md"
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
