"""Stands in for what only the Slicer application has. Test code: see `install`.

With the environment variable SLICER_SOURCE, the folder of a checkout of Slicer, the Python layer of
that Slicer is used as it is (`Base/Python/slicer`: parameter node wrapper, scripted modules, i18n,
util, packaging; the module Sample Data; the base class of effects). Then only what has no Python
source is a double: Qt as PythonQt shows it, CTK and MRML widgets, the application.

What it does as Slicer does, because code depends on it:
 - Qt as PythonQt shows it: properties are attributes (`button.enabled = False`, `box.text`), and
   signals are connected by signature (`button.connect("clicked(bool)", slot)`).
 - `.ui` files are loaded as they are, with their `SlicerParameterName` properties.
 - Node selectors hold nodes of a real scene, follow it, and emit `currentNodeChanged`.
 - Parameter nodes are real `vtkMRMLScriptedModuleNode`s, so they are saved with the scene.

What it does not do: MRML widgets' menus, styles, subject hierarchy plugins, module discovery,
threads of PythonQt. That is for the self test in the application itself.

Import this package before `slicer`.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

SOURCE = os.environ.get("SLICER_SOURCE", "")
"""A checkout of Slicer whose Python layer is used; "" for the doubles of it."""

MODULE_FILE = Path(__file__).resolve().parents[3] / "OFLSAM2Slicer" / "OFLSAM2Slicer.py"


def _use_layer_of(source: Path) -> None:
    layer = source / "Base" / "Python"
    if not (layer / "slicer" / "ScriptedLoadableModule.py").is_file():
        raise RuntimeError(f"SLICER_SOURCE is {source}, which is no checkout of Slicer.")
    if "slicer" in sys.modules:
        raise RuntimeError("Import slicer_double before slicer.")
    # What Slicer's build makes of kits.py.in; the classes are those of the package slicer-core.
    kits = types.ModuleType("slicer.kits")
    kits.available_kits = ["slicer_core"]  # type: ignore[attr-defined]
    sys.modules["slicer.kits"] = kits
    sys.path[:0] = [str(layer), str(source / "Modules" / "Scripted" / "SampleData")]


if SOURCE:
    _use_layer_of(Path(SOURCE).resolve())

import slicer  # noqa: E402
import slicer.util  # noqa: E402

from slicer_double import (  # noqa: E402
    application,
    ctk,
    effects,
    parameter_node,
    qt,
    sample_data,
    scripted_module,
    widgets,
)


def install() -> None:
    """Make `import qt, ctk, slicer.ScriptedLoadableModule, ...` give what there is."""
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    for name in dir(widgets):
        if name.startswith("qMRML"):
            setattr(slicer, name, getattr(widgets, name))
    slicer.app = application.Application()
    slicer.modules = types.SimpleNamespace()
    slicer.modules.oflsam2slicer = types.SimpleNamespace(path=str(MODULE_FILE))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    slicer.modules.segmentations = types.SimpleNamespace(logic=logic)
    slicer.modules.segmenteditor = application.SegmentEditor()
    replaced = ["loadUI", "childWidgetVariables", "confirmOkCancelDisplay", "messageBox"]
    replaced += ["selectModule"]
    if not SOURCE:
        replaced += ["errorDisplay", "mainWindow", "modulePath", "pip_install"]
        replaced += ["startupEnvironment", "settingsValue"]
        _module("slicer.ScriptedLoadableModule", vars(scripted_module))
        _module("slicer.parameterNodeWrapper", vars(parameter_node))
        _module("slicer.i18n", {"tr": lambda text: text, "translate": lambda context, text: text})
        sys.modules["SampleData"] = sample_data
    for name in replaced:
        setattr(slicer.util, name, getattr(application, name))
    effects.install(Path(SOURCE).resolve() if SOURCE else None)
    # By these two names Slicer 5.10 and 5.12 run pip.
    slicer.util._executePythonModule = application.executePythonModule
    slicer.util.executePythonModule = application.executePythonModule


def _module(name: str, content: dict[str, Any]) -> None:
    module = types.ModuleType(name)
    module.__dict__.update({key: value for key, value in content.items() if key[:2] != "__"})
    sys.modules[name] = module
    setattr(slicer, name.split(".")[-1], module)
