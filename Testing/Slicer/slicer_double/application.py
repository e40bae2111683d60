"""`slicer.app`, and the functions of `slicer.util` that need the application."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from slicer_double import qt, widgets

messages: list[str] = []
"""What pop-ups would have said."""
answers: list[bool] = []
"""Answers to the next questions; True where there is none left."""
installed: list[Any] = []
"""What `pip_install` was asked for; nothing is installed."""


class Application:
    def __init__(self) -> None:
        self.quitting: list[Callable[[], None]] = []
        self.commandOptions = lambda: types.SimpleNamespace(noMainWindow=False)

    def connect(self, signature: str, slot: Callable[[], None]) -> bool:
        if signature == "aboutToQuit()":
            self.quitting.append(slot)
        return True

    def disconnect(self, signature: str, slot: Callable[[], None]) -> bool:
        if slot in self.quitting:
            self.quitting.remove(slot)
        return True

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def quit(self) -> None:
        for slot in list(self.quitting):
            slot()


class _Loader(QtUiTools.QUiLoader):
    """Makes PythonQt-like widgets of what a .ui file names."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []  # Qt keeps the widget, not its Python side

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        made = getattr(widgets, class_name, None) or getattr(qt, class_name, None)
        if made is None:
            raise ValueError(f"The .ui file names the class {class_name}, which has no double.")
        widget = made(parent)
        widget.setObjectName(name)
        self.made.append(widget)
        return widget


def loadUI(path: str) -> Any:
    file = QtCore.QFile(str(path))
    if not file.open(QtCore.QFile.ReadOnly):
        raise RuntimeError(f"Could not open {path}")
    loader = _Loader()
    widget = loader.load(file)
    file.close()
    if widget is None:
        raise RuntimeError(loader.errorString())
    widget._made = loader.made
    return widget


def childWidgetVariables(widget: Any) -> Any:
    ui = types.SimpleNamespace()
    for child in widget._made:
        setattr(ui, child.name, child)
    return ui


def confirmOkCancelDisplay(text: str, windowTitle: str = "", **kwargs: Any) -> bool:
    messages.append(text)
    return answers.pop(0) if answers else True


def errorDisplay(text: str, **kwargs: Any) -> None:
    messages.append(text)


messageBox = errorDisplay


def pip_install(requirements: Any) -> None:
    installed.append(requirements)


def startupEnvironment() -> dict[str, str]:
    return dict(os.environ)


def settingsValue(key: str, default: Any, converter: Callable[[Any], Any] = str) -> Any:
    value = QtCore.QSettings().value(key)
    return default if value is None else converter(value)
