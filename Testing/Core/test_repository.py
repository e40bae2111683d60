"""What holds the repository together: file lists of the build, the packages of the wheel."""

from __future__ import annotations

import ast
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


def test_every_number_that_decides_something_has_its_reason_beside_it() -> None:
    """One text will do for constants in consecutive lines."""
    bare = []
    for folder in ("methods", "atlas", "postprocessing", "preprocessing", "slice_position"):
        for path in sorted((ROOT / "OFLSAM2Core" / folder).rglob("*.py")):
            bare += [f"{path.name}: {name}" for name in _bare_constants(path.read_text("utf-8"))]
    assert bare == []


def test_a_number_without_a_reason_is_found() -> None:
    text = 'ONE = 1\nTWO = 2\n"""Why."""\n\n# Why.\nTHREE = {2: 4}\n\nVERSION = 1\n\nFOUR = -5\n'
    assert _bare_constants(text) == ["FOUR"]


def _bare_constants(text: str) -> list[str]:
    """Names of a module's constants that are or hold numbers, without a text or a comment."""
    lines, groups, end = text.splitlines(), [], -1
    for statement in ast.parse(text).body:
        if statement.lineno > end + 1:
            groups.append([])
        groups[-1].append(statement)
        end = statement.end_lineno
    bare = []
    for group in groups:
        around = lines[max(group[0].lineno - 2, 0) : group[-1].end_lineno]
        if any("#" in line for line in around) or any(isinstance(s, ast.Expr) for s in group):
            continue
        for constant in group:
            if isinstance(constant, ast.Assign) and _holds_a_number(constant.value):
                name = ast.unparse(constant.targets[0])
                if name.isupper() and name != "VERSION":
                    bare.append(name)
    return bare


def _holds_a_number(value: ast.expr) -> bool:
    constants = (each.value for each in ast.walk(value) if isinstance(each, ast.Constant))
    return any(isinstance(each, int | float) for each in constants)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/accuracy.md"]
)
def test_files_that_the_documentation_names_exist(page: str) -> None:
    named = set(NAMED_FILE.findall((ROOT / page).read_text(encoding="utf-8")))
    assert named or page != "docs/architecture.md"
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
