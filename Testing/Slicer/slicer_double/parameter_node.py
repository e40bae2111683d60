"""`slicer.parameterNodeWrapper`: typed attributes on a real node, and widgets that follow them.

Values are parameters of the node, nodes are node references, so both are saved with the scene.
Types are those this extension uses: str, bool, int, float, node classes and unions of them. As in
Slicer, a selector gets its node types from the annotation, a combo box its items from `Choice`,
a slider needs `WithinRange`, and a value outside of either is refused.
"""

from __future__ import annotations

import types
import typing
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import slicer
import vtk
from PySide6 import QtCore

SlicerParameterNamePropertyName = "SlicerParameterName"


@dataclass(frozen=True)
class WithinRange:
    minimum: float
    maximum: float

    def check(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} to {self.maximum}")


class Choice:
    def __init__(self, choices: Sequence[Any]) -> None:
        self.choices = list(choices)

    def check(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value} is not one of {self.choices}")


@dataclass(frozen=True)
class _Parameter:
    kind: type
    node_types: tuple[str, ...]
    rule: WithinRange | Choice | None


def _parameter(hint: Any) -> _Parameter:
    rule = None
    if typing.get_origin(hint) is typing.Annotated:
        hint, rule = typing.get_args(hint)
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [
        kind for kind in (typing.get_args(hint) if is_union else [hint]) if kind is not type(None)
    ]
    if all(issubclass(kind, slicer.vtkMRMLNode) for kind in kinds):
        names = tuple(kind.__name__.split(".")[-1] for kind in kinds)
        return _Parameter(kinds[0], names, None)
    if len(kinds) == 1 and kinds[0] in (str, bool, int, float):
        return _Parameter(kinds[0], (), rule)
    raise TypeError(f"The double does not know {hint}.")


def parameterNodeWrapper(cls: type) -> type:
    hints = typing.get_type_hints(cls, include_extras=True)
    cls._parameters = {name: _parameter(hint) for name, hint in hints.items()}
    cls.allParameters = cls._parameters
    for name, parameter in cls._parameters.items():
        if parameter.node_types:
            is_cached = len(parameter.node_types) == 1  # not of a choice of classes
            setattr(cls, name, _cached_node_property(name) if is_cached else _node_property(name))
        else:
            default = getattr(cls, name, parameter.kind())
            setattr(cls, name, _value_property(name, parameter, default))

    def init(self: Any, node: Any) -> None:
        self.parameterNode = node
        self._connected: dict[int, list[tuple[str, Any]]] = {}
        self._observers: dict[int, int] = {}
        self._updating = False
        self._cache: dict[str, Any] = {}
        _fill_cache(self)
        known = weakref.ref(self)
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: _fill_cache(known()))

    cls.__init__ = init
    for function in (
        connectGui,
        disconnectGui,
        AddObserver,
        RemoveObserver,
        Modified,
        StartModify,
        EndModify,
    ):
        setattr(cls, function.__name__, function)
    return cls


def _value_property(name: str, parameter: _Parameter, default: Any) -> property:
    kind = parameter.kind

    def read(self: Any) -> Any:
        text = self.parameterNode.GetParameter(name)
        if not text and kind is not str:
            return default
        if name not in self.parameterNode.GetParameterNames():
            return default
        return text == "True" if kind is bool else kind(text)

    def write(self: Any, value: Any) -> None:
        if parameter.rule is not None:
            parameter.rule.check(value)
        self.parameterNode.SetParameter(name, str(kind(value)))

    return property(read, write)


def _node_property(name: str) -> property:
    return property(
        lambda self: self.parameterNode.GetNodeReference(name),
        lambda self, node: self.parameterNode.SetNodeReferenceID(
            name, node.GetID() if node is not None else None
        ),
    )


def _cached_node_property(name: str) -> property:
    """As Slicer's: a node that comes into the scene after the reference to it is not seen before
    the parameter node is modified."""
    plain = _node_property(name)

    def write(self: Any, node: Any) -> None:
        # As Slicer's: whoever follows the parameter node is told once the new node can be read.
        was_modified = self.parameterNode.StartModify()
        plain.__set__(self, node)
        _fill_cache(self)
        self.parameterNode.EndModify(was_modified)

    return property(lambda self: self._cache[name], write)


def _fill_cache(self: Any) -> None:
    if self is not None:
        for name, parameter in self._parameters.items():
            if len(parameter.node_types) == 1:
                self._cache[name] = self.parameterNode.GetNodeReference(name)


def connectGui(self: Any, ui: Any) -> int:
    tag = len(self._connected) + 1
    pairs = []
    for widget in vars(ui).values():
        name = QtCore.QObject.property(widget, SlicerParameterNamePropertyName)
        if name:
            if not hasattr(type(self), name):
                raise ValueError(f"Cannot find a param with the given name: {name}")
            _prepare(widget, self._parameters[name])
            pairs.append((name, widget))
    self._connected[tag] = pairs
    _to_gui(self, pairs)
    for name, widget in pairs:
        signal, read, _ = _access(widget)
        slot = _slot(self, name, read)
        widget.__dict__.setdefault("_parameter_slots", {})[(id(self), tag)] = slot
        signal.connect(slot)
    self._observers[tag] = self.parameterNode.AddObserver(
        vtk.vtkCommand.ModifiedEvent, lambda *_: _to_gui(self, pairs)
    )
    return tag


def disconnectGui(self: Any, tag: int) -> None:
    for _, widget in self._connected.pop(tag, []):
        slot = widget.__dict__["_parameter_slots"].pop((id(self), tag))
        _access(widget)[0].disconnect(slot)
    if tag in self._observers:
        self.parameterNode.RemoveObserver(self._observers.pop(tag))


def AddObserver(self: Any, event: Any, callback: Any, priority: float = 0.0) -> int:
    return self.parameterNode.AddObserver(event, callback, priority)


def RemoveObserver(self: Any, tag: int) -> None:
    self.parameterNode.RemoveObserver(tag)


def Modified(self: Any) -> None:
    self.parameterNode.Modified()


def StartModify(self: Any) -> int:
    return self.parameterNode.StartModify()


def EndModify(self: Any, was_modified: int) -> int:
    return self.parameterNode.EndModify(was_modified)


def _prepare(widget: Any, parameter: _Parameter) -> None:
    kind = type(widget).__name__
    if kind == "qMRMLNodeComboBox":
        widget.nodeTypes = list(parameter.node_types)
    elif kind == "QComboBox":
        if not isinstance(parameter.rule, Choice):
            raise RuntimeError("A combo box needs the Choice annotation.")
        widget.clear()
        for choice in parameter.rule.choices:
            widget.addItem(str(choice))
    elif kind in ("ctkSliderWidget", "QSpinBox", "QDoubleSpinBox"):
        if isinstance(parameter.rule, WithinRange):
            widget.minimum, widget.maximum = parameter.rule.minimum, parameter.rule.maximum
        elif kind == "ctkSliderWidget":
            raise RuntimeError("A ctkSliderWidget needs a bounded parameter.")


def _slot(self: Any, name: str, read: Any) -> Any:
    def slot(*_: Any) -> None:
        if not self._updating:
            setattr(self, name, read())

    return slot


def _to_gui(self: Any, pairs: list[tuple[str, Any]]) -> None:
    if self._updating:
        return
    self._updating = True
    try:
        for name, widget in pairs:
            _access(widget)[2](getattr(self, name))
    finally:
        self._updating = False


def _access(widget: Any) -> tuple[Any, Any, Any]:
    """Signal, read and write of a widget's value, as Slicer's connectors have them."""

    def signal(name: str) -> Any:
        return object.__getattribute__(widget, name)

    kind = type(widget).__name__
    if kind == "qMRMLNodeComboBox":
        return signal("currentNodeChanged"), widget.currentNode, widget.setCurrentNode
    if kind == "QCheckBox":
        return signal("stateChanged"), lambda: widget.checked, widget.setChecked
    if kind in ("QSpinBox", "QDoubleSpinBox"):
        return signal("valueChanged"), lambda: widget.value, widget.setValue
    if kind == "ctkSliderWidget":
        return (
            signal("valueChanged"),
            lambda: widget.value,
            lambda value: setattr(widget, "value", value),
        )
    if kind == "QComboBox":

        def write(text: str) -> None:
            # Slicer raises, too, where the value is not among the items.
            if widget.findText(text) < 0:
                raise ValueError(f"'{text}' is not an item of {widget.name}")
            widget.setCurrentIndex(widget.findText(text))

        return signal("currentIndexChanged"), lambda: widget.currentText, write
    if kind == "QLineEdit":
        return signal("textChanged"), lambda: widget.text, widget.setText
    raise TypeError(f"The double cannot connect a {kind} to a parameter.")
