"""The module `ctk`."""

from slicer_double.widgets import ctkCollapsibleButton, ctkSliderWidget

__all__ = ["ctkCollapsibleButton", "ctkSliderWidget"]
