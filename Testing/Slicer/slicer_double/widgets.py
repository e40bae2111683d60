"""Slicer's and CTK's own widgets: what the panel uses of them."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from slicer_double.pythonqt import PythonQt

HEADER = 26


def _declared(name: str, kind: Any) -> Any:
    def read(self: Any) -> Any:
        return self._options.get(name)

    def write(self: Any, value: Any) -> None:
        self._options[name] = value
        if name == "nodeTypes" and self._scene is not None:
            self._refill()

    return QtCore.Property(kind, read, write)


def _of_box(name: str, kind: type) -> Any:
    setter = f"set{name[0].upper()}{name[1:]}"
    return QtCore.Property(
        kind,
        lambda self: getattr(self._box, name)(),
        lambda self, value: getattr(self._box, setter)(value),
    )


class qMRMLWidget(PythonQt, QtWidgets.QWidget):
    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        # The .ui file connects mrmlSceneChanged(vtkMRMLScene*) to the selectors. Qt does not know
        # vtk types here and says so; the selectors are told directly.
        for selector in self._made:
            if isinstance(selector, qMRMLNodeComboBox):
                selector.setMRMLScene(scene)


class qMRMLNodeComboBox(PythonQt, QtWidgets.QComboBox):
    """Lists the nodes of a scene, and follows it."""

    currentNodeChanged = QtCore.Signal(object)
    nodeTypes = _declared("nodeTypes", "QStringList")
    noneDisplay = _declared("noneDisplay", str)
    noneEnabled = _declared("noneEnabled", bool)
    addEnabled = _declared("addEnabled", bool)
    removeEnabled = _declared("removeEnabled", bool)
    renameEnabled = _declared("renameEnabled", bool)
    showChildNodeTypes = _declared("showChildNodeTypes", bool)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._options: dict[str, Any] = {"nodeTypes": [], "noneEnabled": False, "noneDisplay": ""}
        self._scene: Any = None
        self._observers: list[int] = []
        self._nodes: list[Any] = []
        self._shown: Any = None
        object.__getattribute__(self, "activated").connect(self._picked)

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._observers:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        self._observers = []
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent):
                self._observers.append(scene.AddObserver(event, lambda *_: self._refill()))
        self._refill()

    def mrmlScene(self) -> Any:
        return self._scene

    def currentNode(self) -> Any:
        return self._shown

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and node not in self._nodes:
            self._refill()
            node = node if node in self._nodes else None
        self._show(node)

    def nodes(self) -> list[Any]:
        return list(self._nodes)

    def _picked(self, index: int) -> None:
        offset = 1 if self._options["noneEnabled"] else 0
        self._show(self._nodes[index - offset] if index >= offset else None)

    def _show(self, node: Any) -> None:
        changed = node is not self._shown
        self._shown = node
        offset = 1 if self._options["noneEnabled"] else 0
        row = self._nodes.index(node) + offset if node is not None else offset - 1
        QtWidgets.QComboBox.setCurrentIndex(self, row)
        if changed:
            object.__getattribute__(self, "currentNodeChanged").emit(node)

    def _refill(self) -> None:
        scene, nodes = self._scene, []
        for class_name in self._options["nodeTypes"]:
            count = scene.GetNumberOfNodesByClass(class_name) if scene is not None else 0
            for position in range(count):
                node = scene.GetNthNodeByClass(position, class_name)
                exact = self._options.get("showChildNodeTypes", True) or (
                    node.GetClassName() == class_name
                )
                if exact and node not in nodes and not node.GetHideFromEditors():
                    nodes.append(node)
        self._nodes = nodes
        QtWidgets.QComboBox.clear(self)
        if self._options["noneEnabled"]:
            self.addItem(self._options["noneDisplay"] or "None")
        for node in nodes:
            self.addItem(node.GetName())
        if self._shown not in nodes:
            first = nodes[0] if nodes and not self._options["noneEnabled"] else None
            self._show(first)
        else:
            self._show(self._shown)


class ctkCollapsibleButton(PythonQt, QtWidgets.QWidget):
    """A header, and content that it shows or hides."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._text, self._is_collapsed = "", False
        self.setContentsMargins(0, HEADER, 0, 0)

    def _get_text(self) -> str:
        return self._text

    def _set_text(self, text: str) -> None:
        self._text = text
        self.update()

    def _get_collapsed(self) -> bool:
        return self._is_collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        self._is_collapsed = collapsed
        self.setMaximumHeight(HEADER if collapsed else 16777215)  # the content is clipped away
        object.__getattribute__(self, "contentsCollapsed").emit(collapsed)

    text = QtCore.Property(str, _get_text, _set_text)
    collapsed = QtCore.Property(bool, _get_collapsed, _set_collapsed)

    def paintEvent(self, event: Any) -> None:
        painter = QtGui.QPainter(self)
        rect = QtCore.QRect(0, 0, QtWidgets.QWidget.width(self), HEADER - 2)
        painter.fillRect(rect, QtGui.QColor(214, 220, 228))
        painter.setPen(QtGui.QColor(40, 44, 52))
        arrow = "\u25b8" if self._is_collapsed else "\u25be"
        left = rect.adjusted(8, 0, 0, 0)
        painter.drawText(left, QtCore.Qt.AlignVCenter, f"{arrow}  {self._text}")


class ctkSliderWidget(PythonQt, QtWidgets.QWidget):
    """A slider with a spin box."""

    valueChanged = QtCore.Signal(float)
    value = _of_box("value", float)
    minimum = _of_box("minimum", float)
    maximum = _of_box("maximum", float)
    singleStep = _of_box("singleStep", float)
    decimals = _of_box("decimals", int)
    pageStep = _declared("pageStep", float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._options: dict[str, Any] = {}
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal, self)
        self._box = QtWidgets.QDoubleSpinBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._slider.setRange(0, 1000)
        self._slider.sliderMoved.connect(self._moved)
        self._box.valueChanged.connect(self._changed)

    def _moved(self, position: int) -> None:
        low, high = self._box.minimum(), self._box.maximum()
        self._box.setValue(low + (high - low) * position / 1000)

    def _changed(self, value: float) -> None:
        low, high = self._box.minimum(), self._box.maximum()
        self._slider.setValue(round(1000 * (value - low) / (high - low or 1)))
        object.__getattribute__(self, "valueChanged").emit(value)


class qMRMLSegmentationShow3DButton(PythonQt, QtWidgets.QPushButton):
    """Makes and removes the closed surfaces of a segmentation."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self.setCheckable(True)
        self.setEnabled(False)
        object.__getattribute__(self, "toggled").connect(self._on_toggled)

    def segmentationNode(self) -> Any:
        return self._node

    def setSegmentationNode(self, node: Any) -> None:
        self._node = node
        self.setEnabled(node is not None)

    def _on_toggled(self, visible: bool) -> None:
        if visible:
            self._node.CreateClosedSurfaceRepresentation()
        else:
            self._node.RemoveClosedSurfaceRepresentation()


class qMRMLSliderWidget(PythonQt, QtWidgets.QWidget):
    """Named by Slicer's parameter node wrapper; not used here, as the two below."""


class qMRMLSpinBox(PythonQt, QtWidgets.QWidget):
    pass


class qMRMLRangeWidget(PythonQt, QtWidgets.QWidget):
    pass
