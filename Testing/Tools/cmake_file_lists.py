"""Keeps the file lists of the two CMakeLists.txt as the folders are.

    python Testing/Tools/cmake_file_lists.py            # writes the lists
    python Testing/Tools/cmake_file_lists.py --check    # exit code 1 if one is wrong

Slicer's macros want every file by name. A list that lacks a file builds an extension without it,
and nobody notices before the extension runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = "OFLSAM2Slicer"
NOT_LISTED = {".pyc", ".pyo"}


def files(folder: Path, relative_to: Path, *, python: bool) -> list[str]:
    """Files below `folder` that are (`python`) or are not Python sources, sorted, with `/`."""
    found = [
        path.relative_to(relative_to).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not path.name.startswith(".")
        and path.suffix not in NOT_LISTED
        and (path.suffix == ".py") == python
    ]
    return sorted(found)


def lists(root: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """CMake file, name of the list, what has to be in it."""
    core = root / "CMakeLists.txt"
    yield core, "OFLSAM2Core_SCRIPTS", files(root / "OFLSAM2Core", root, python=True)
    yield (
        core,
        "OFLSAM2Core_RESOURCES",
        files(root / "OFLSAM2Core", root, python=False)
        + files(root / "Resources" / "SampleData", root, python=False),
    )
    module = root / MODULE
    cmake = module / "CMakeLists.txt"
    yield cmake, "MODULE_PYTHON_SCRIPTS", files(module, module, python=True)
    yield (
        cmake,
        "MODULE_PYTHON_RESOURCES",
        files(module / "Resources", module, python=False),
    )


def with_list(text: str, name: str, entries: list[str]) -> str:
    """`text` of a CMake file with the list `name` replaced; ValueError where it has none."""
    body = "".join(f"  {entry}\n" for entry in entries)
    changed, count = re.subn(
        rf"(set\({name}\n).*?(\n?  \))",
        lambda found: f"{found.group(1)}{body}  )",
        text,
        count=1,
        flags=re.DOTALL,
    )
    if count == 0:
        raise ValueError(f"no list {name}")
    return changed


def outdated(root: Path) -> dict[Path, str]:
    """CMake files whose lists differ from the folders, with the text that they should have."""
    texts: dict[Path, str] = {}
    for cmake, name, entries in lists(root):
        texts[cmake] = with_list(texts.get(cmake, cmake.read_text()), name, entries)
    return {cmake: text for cmake, text in texts.items() if text != cmake.read_text()}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository's folder")
    arguments = parser.parse_args(words)
    changed = outdated(arguments.root)
    for cmake, text in changed.items():
        shown = cmake.relative_to(arguments.root)
        if arguments.check:
            print(f"{shown}: file list differs; run python Testing/Tools/cmake_file_lists.py")
        else:
            cmake.write_text(text, newline="\n")
            print(f"{shown}: file list written")
    return 1 if changed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
