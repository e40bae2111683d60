"""`slicer.ScriptedLoadableModule`: the base classes of a module."""

from __future__ import annotations

import inspect
import os
import types
import unittest
from typing import Any

import slicer
from PySide6 import QtWidgets

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__

    def resourcePath(self, filename: str) -> str:
        folder = os.path.dirname(inspect.getfile(type(self)))
        return os.path.join(folder, "Resources", filename)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent if parent is not None else QtWidgets.QWidget()
        self.parent.isEntered = True
        self.layout = QtWidgets.QVBoxLayout(self.parent)

    def setup(self) -> None:
        pass

    def resourcePath(self, filename: str) -> str:
        folder = os.path.dirname(inspect.getfile(type(self)))
        return os.path.join(folder, "Resources", filename)

    def onReload(self) -> None:
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        scene = slicer.mrmlScene
        node = scene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node.SetName(self.moduleName)
            node = scene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def runTest(self) -> None:
        pass

    def delayDisplay(self, message: str, msec: int | None = None) -> None:
        del message, msec


Parent = types.SimpleNamespace
