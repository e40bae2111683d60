"""`slicer.app`, and the functions of `slicer.util` that need the application."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from typing import Any

import slicer
from PySide6 import QtCore, QtUiTools, QtWidgets

from slicer_double import qt, widgets

messages: list[str] = []
"""Texts of the pop-ups."""
answers: list[bool] = []
"""Answers to the next questions; True where there is none left."""
executed: list[tuple[str, list[str]]] = []
"""Modules that Slicer's Python was to be run with (pip, say), and their arguments; nothing is
run."""


class Emitter:
    """Signals by their signature."""

    def __init__(self) -> None:
        self._slots: list[tuple[str, Callable[..., None]]] = []

    def connect(self, signature: str, slot: Callable[..., None]) -> bool:
        self._slots.append((signature, slot))
        return True

    def disconnect(self, signature: str, slot: Callable[..., None]) -> bool:
        self._slots = [known for known in self._slots if known != (signature, slot)]
        return True

    def emit(self, signature: str, *args: Any) -> None:
        for known, slot in list(self._slots):
            if known == signature:
                slot(*args)


class ExtensionsManager:
    """`slicer.app.extensionsManagerModel()`; asks as Slicer's does where it is interactive."""

    def __init__(self) -> None:
        self.interactive = True
        self.installed: list[str] = []
        self.isOnline = True

    def isExtensionInstalled(self, name: str) -> bool:
        return name in self.installed

    def installExtensionFromServer(
        self, name: str, restart: bool = True, update: bool = False
    ) -> bool:
        if self.interactive and not confirmOkCancelDisplay(f"Do you want to install '{name}' now?"):
            return False
        if self.isOnline:
            self.installed.append(name)
        if self.isOnline and self.interactive and restart:
            confirmOkCancelDisplay("Restart now?")
        return self.isOnline


class Application(Emitter):
    applicationName = "Slicer"
    documentationBaseUrl = ""

    def __init__(self) -> None:
        super().__init__()
        self._manager = Emitter()
        self._extensions = ExtensionsManager()
        self.commandOptions = lambda: types.SimpleNamespace(noMainWindow=False)

    def moduleManager(self) -> Emitter:
        return self._manager

    def extensionsManagerModel(self) -> ExtensionsManager:
        return self._extensions

    def topLevelWidgets(self) -> list[Any]:
        return []  # no main window

    def testingEnabled(self) -> bool:
        return True  # no dialog that nobody closes

    def translate(self, context: str, text: str) -> str:
        return text

    def settings(self) -> Any:
        return QtCore.QSettings()

    userSettings = settings

    def startupEnvironment(self) -> Any:
        return types.SimpleNamespace(keys=lambda: list(os.environ), value=os.environ.__getitem__)

    def thread(self) -> Any:
        application = QtWidgets.QApplication.instance()
        assert application is not None
        return application.thread()

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def quit(self) -> None:
        self.emit("aboutToQuit()")


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


def executePythonModule(module: str, args: Any, *_more: Any, **_named: Any) -> None:
    executed.append((module, list(args)))


def pip_install(requirements: list[str]) -> None:
    """As in Slicer 5.10."""
    slicer.util._executePythonModule("pip", ["install", *requirements])


class SegmentEditor:
    """`slicer.modules.segmenteditor`: what is chosen in it."""

    def __init__(self) -> None:
        self.editor = self
        self.segmentation: Any = None
        self.volume: Any = None
        self.isShown = False

    def widgetRepresentation(self) -> SegmentEditor:
        return self

    def self(self) -> SegmentEditor:
        return self

    def setSegmentationNode(self, node: Any) -> None:
        self.segmentation = node

    def setSourceVolumeNode(self, node: Any) -> None:
        self.volume = node


def selectModule(name: str) -> None:
    for module in vars(slicer.modules).values():
        if isinstance(module, SegmentEditor):
            module.isShown = name == "SegmentEditor"


def mainWindow() -> Any:
    return None


def modulePath(name: str) -> str:
    return str(getattr(slicer.modules, name.lower()).path)


def startupEnvironment() -> dict[str, str]:
    return dict(os.environ)


def settingsValue(key: str, default: Any, converter: Callable[[Any], Any] = str) -> Any:
    value = QtCore.QSettings().value(key)
    return default if value is None else converter(value)
