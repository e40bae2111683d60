"""The module runs here on real MRML classes (slicer-core), without the Slicer application.

`slicer_double/` stands in for what only the application has: Qt as PythonQt shows it, CTK and MRML
widgets, the parameter node wrapper. It is test code, and says where it is less than the original.
With SLICER_SOURCE=<checkout of Slicer> the same tests run over Slicer's own Python layer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "OFLSAM2Slicer", Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import slicer_double  # noqa: E402,F401  (before slicer: it may bring another one)

# isort: split
import slicer  # noqa: E402
from scenes import OBLIQUE, add_segmentation, add_volume, case_arrays, new_scene  # noqa: E402


@pytest.fixture
def scene() -> Iterator[slicer.vtkMRMLScene]:
    """An empty scene with three slice views, the one that `slicer.mrmlScene` names."""
    scene = new_scene()
    yield scene
    scene.Clear(True)


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """The panel's settings go to a file of their own."""
    from PySide6 import QtCore

    QtCore.QCoreApplication.setOrganizationName("OFLSAM2 tests")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    QtCore.QSettings.setPath(
        QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(tmp_path)
    )
    return tmp_path


@pytest.fixture
def open_panel(scene: slicer.vtkMRMLScene, settings_file: Path) -> Iterator:
    """Opens panels, and closes them after the test."""
    from panels import Panel

    opened = []

    def open_one(worker: str = "") -> Panel:
        opened.append(Panel(worker))
        return opened[-1]

    yield open_one
    for panel in opened:
        panel.close()


@pytest.fixture
def pairs(scene: slicer.vtkMRMLScene) -> list[tuple[Any, Any]]:
    """Two support cases with liver and lesion."""
    made = []
    for number in (1, 2):
        image, liver, lesion = case_arrays(number)
        volume = add_volume(scene, image, f"case {number}", OBLIQUE)
        masks = {"liver": liver, "lesion": lesion}
        made.append((volume, add_segmentation(scene, volume, masks, f"case {number} seg")))
    return made


@pytest.fixture
def target(scene: slicer.vtkMRMLScene) -> Any:
    """The volume to segment."""
    return add_volume(scene, case_arrays(4)[0], "patient", OBLIQUE)


@pytest.fixture
def quick(open_panel: Any, target: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """A panel with everything chosen, on a worker that answers at once."""
    from panels import synthetic_command

    panel = open_panel(synthetic_command())
    panel.choose(target, pairs)
    return panel


@pytest.fixture
def slow(open_panel: Any, target: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """The same, on a worker that takes a moment for each slice."""
    from panels import synthetic_command

    panel = open_panel(synthetic_command("--delay", "0.05"))
    panel.choose(target, pairs)
    return panel
