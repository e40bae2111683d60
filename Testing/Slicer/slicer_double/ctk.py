"""The module `ctk`."""

from typing import Any

from PySide6 import QtWidgets

from slicer_double.widgets import ctkCollapsibleButton, ctkSliderWidget

__all__ = ["ctkCollapsibleButton", "ctkSliderWidget"]


def __getattr__(name: str) -> Any:
    """Classes that Slicer's Python layer names but this extension does not use."""
    if not name.startswith("ctk"):
        raise AttributeError(name)
    made = globals()[name] = type(name, (QtWidgets.QWidget,), {})
    return made
