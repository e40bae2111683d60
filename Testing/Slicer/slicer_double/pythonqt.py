"""Qt objects as PythonQt shows them: properties as attributes, signals by signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtWidgets

# Properties whose reading calls a virtual function of the same name, which would be looked up here.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}


class PythonQt:
    """Mixed into a PySide6 class, before it."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("connect", "property", "metaObject"):
            return object.__getattribute__(self, name)
        if name == "name":  # PythonQt's word for objectName
            return QtCore.QObject.property(self, "objectName")
        if _is_property(self, name):
            return QtCore.QObject.property(self, name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_property(self, name):
            value = list(value) if isinstance(value, tuple) else value  # PythonQt takes both
            if not QtCore.QObject.setProperty(self, name, value):
                raise ValueError(f"Property {name} of {type(self).__name__} cannot be {value!r}.")
        else:
            super().__setattr__(name, value)

    def connect(self, signature: str, slot: Callable[..., Any]) -> bool:
        """PythonQt's `connect("clicked(bool)", slot)`."""
        _signal(self, signature).connect(slot)
        return True

    def disconnect(self, signature: str, slot: Callable[..., Any]) -> bool:
        _signal(self, signature).disconnect(slot)
        return True


def as_pythonqt(qt_class: type) -> type:
    """A class of the same name whose objects behave as in PythonQt."""
    return type(qt_class.__name__, (PythonQt, qt_class), {})


def _is_property(thing: Any, name: str) -> bool:
    if name in _VIRTUAL or (name == "text" and isinstance(thing, QtWidgets.QProgressBar)):
        return False
    return QtCore.QObject.metaObject(thing).indexOfProperty(name) >= 0


def _signal(thing: Any, signature: str) -> Any:
    name, _, arguments = signature.rstrip(")").partition("(")
    found = object.__getattribute__(thing, name)
    wanted = f"{name}({arguments})".replace(" ", "")
    # The meta object of a class written in Python PySide now and then has deleted before it
    # answers; that of Qt's own class stays, and a signal written in Python has one signature.
    qt_class = next(c for c in type(thing).__mro__ if c.__module__.startswith("PySide6."))
    meta = qt_class.staticMetaObject
    known = [
        bytes(meta.method(index).methodSignature()).decode() for index in range(meta.methodCount())
    ]
    is_known = wanted in known or f" {wanted} " in repr(found)
    if not is_known and not name.startswith("currentNode"):
        raise ValueError(f"{type(thing).__name__} has no signal {wanted}.")
    return found
