"""What `from OFLSAM2Core import ...` offers: all of it real, loaded when it is first used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import OFLSAM2Core

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "SimpleITK", "scipy", "monai", "openvino", "sam2", "numpy")


def loaded_after(code: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after `code`."""
    report = f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def imported_for_type_checkers() -> dict[str, str]:
    """Names that the package imports under TYPE_CHECKING, with their modules."""
    tree = ast.parse((ROOT / "OFLSAM2Core" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import OFLSAM2Core; dir(OFLSAM2Core)") == set()


def test_reading_a_volume_needs_no_torch() -> None:
    code = "from OFLSAM2Core import read_volume, read_support_case, SegmentationBuffer, Structure"
    assert loaded_after(code) <= {"numpy", "scipy", "SimpleITK"}


def test_no_public_name_loads_torch() -> None:
    names = ", ".join(OFLSAM2Core.__all__)
    assert "torch" not in loaded_after(f"from OFLSAM2Core import {names}")


@pytest.mark.parametrize("name", OFLSAM2Core.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name: str) -> None:
    value = getattr(OFLSAM2Core, name)
    assert name in dir(OFLSAM2Core)
    assert name == "__version__" or value.__doc__


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    seen = imported_for_type_checkers()
    assert set(seen) | {"__version__"} == set(OFLSAM2Core.__all__)
    for name, module in seen.items():
        assert getattr(OFLSAM2Core, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'read_volumes'"):
        OFLSAM2Core.read_volumes  # noqa: B018


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (Path(OFLSAM2Core.__file__).parent / "py.typed").is_file()
