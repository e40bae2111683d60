"""Stands in for what only the Slicer application has. Test code: see `install`.

What it does as Slicer does, because code depends on it:
 - Qt as PythonQt shows it: properties are attributes (`button.enabled = False`, `box.text`), and
   signals are connected by signature (`button.connect("clicked(bool)", slot)`).
 - `.ui` files are loaded as they are, with their `SlicerParameterName` properties.
 - Node selectors hold nodes of a real scene, follow it, and emit `currentNodeChanged`.
 - Parameter nodes are real `vtkMRMLScriptedModuleNode`s, so they are saved with the scene.

What it does not do: MRML widgets' menus, styles, subject hierarchy plugins, module discovery,
threads of PythonQt. That is for the self test in the application itself.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import slicer
import slicer.util

from slicer_double import application, ctk, parameter_node, qt, scripted_module, widgets


def install() -> None:
    """Make `import qt, ctk, slicer.ScriptedLoadableModule, ...` give the doubles."""
    sys.modules["qt"] = qt
    sys.modules["ctk"] = ctk
    slicer.qMRMLNodeComboBox = widgets.qMRMLNodeComboBox
    slicer.app = application.Application()
    slicer.modules = types.SimpleNamespace()
    _module("slicer.ScriptedLoadableModule", vars(scripted_module))
    _module("slicer.parameterNodeWrapper", vars(parameter_node))
    _module("slicer.i18n", {"tr": lambda text: text, "translate": lambda context, text: text})
    for name in (
        "loadUI",
        "messageBox",
        "confirmOkCancelDisplay",
        "errorDisplay",
        "pip_install",
        "startupEnvironment",
        "settingsValue",
    ):
        setattr(slicer.util, name, getattr(application, name))
    slicer.util.childWidgetVariables = application.childWidgetVariables


def _module(name: str, content: dict[str, Any]) -> None:
    module = types.ModuleType(name)
    module.__dict__.update({key: value for key, value in content.items() if key[:2] != "__"})
    sys.modules[name] = module
    setattr(slicer, name.split(".")[-1], module)
