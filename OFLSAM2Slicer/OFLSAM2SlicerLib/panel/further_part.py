"""Part 1, more of it: second and third volumes of each patient, co-registered with the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from OFLSAM2SlicerLib.further_volumes import further_of_target, set_further_of_target
from OFLSAM2SlicerLib.panel.support_part import SupportPart

TARGET = ("targetSecondSelector", "targetThirdSelector")
SUPPORT = ("supportSecondSelector", "supportThirdSelector")


class FurtherPart:
    """Selectors for the further volumes of the target and of the selected support case.

    changed: called when what can be run may have changed.
    """

    def __init__(self, ui: Any, support: SupportPart, changed: Callable[[], None]) -> None:
        self._ui = ui
        self._support = support
        self._changed = changed
        self._parameters: Any = None
        self._is_filling = False
        for name in TARGET:
            getattr(ui, name).connect("currentNodeChanged(vtkMRMLNode*)", self._on_target)
        for name in SUPPORT:
            getattr(ui, name).connect("currentNodeChanged(vtkMRMLNode*)", self._on_support)
        ui.supportTable.connect("itemSelectionChanged()", self.update)

    def show(self, parameters: Any) -> None:
        """Show those of a parameter node; unfolded where there are any."""
        self._parameters = parameters
        self.update()
        if self.of_target() or any(pair.further_nodes for pair in self._support.pairs):
            self._ui.furtherCollapsibleButton.collapsed = False

    def update(self, *_args: Any) -> None:
        """The target, the support cases or the selected row may be others now."""
        self._fill(TARGET, self.of_target(), self._target() is not None)
        pair = self._support.selected
        self._ui.supportFurtherLabel.text = (
            _("of '{name}':").format(name=pair.name)
            if pair is not None
            else _("of the selected support case:")
        )
        further = pair.further_nodes if pair is not None else ()
        self._fill(SUPPORT, further, pair is not None and self._support.is_enabled)

    def of_target(self) -> tuple[Any, ...]:
        """Volumes that are co-registered with the one to segment."""
        if self._parameters is None:
            return ()
        return further_of_target(self._parameters.parameterNode, self._target())

    def of(self, volume: Any) -> tuple[Any, ...]:
        """The further volumes chosen for a volume: the target or that of a support case."""
        if volume is not None and volume is self._target():
            return self.of_target()
        of_support = (p.further_nodes for p in self._support.pairs if p.volume_node is volume)
        return next(of_support, ())

    def set_of_target(self, volumes: tuple[Any, ...]) -> None:
        set_further_of_target(self._parameters.parameterNode, self._target(), volumes)
        self.update()
        self._changed()

    def _target(self) -> Any:
        return self._parameters.target if self._parameters is not None else None

    def _fill(self, names: tuple[str, ...], volumes: tuple[Any, ...], enabled: bool) -> None:
        self._is_filling = True
        for place, name in enumerate(names):
            selector = getattr(self._ui, name)
            selector.setCurrentNode(volumes[place] if place < len(volumes) else None)
            selector.enabled = enabled and place <= len(volumes)
        self._is_filling = False

    def _chosen(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        nodes = (getattr(self._ui, name).currentNode() for name in names)
        return tuple(node for node in nodes if node is not None)

    def _on_target(self, *_args: Any) -> None:
        if not self._is_filling and self._target() is not None:
            self.set_of_target(self._chosen(TARGET))

    def _on_support(self, *_args: Any) -> None:
        if not self._is_filling and self._support.selected is not None:
            self._support.set_further(self._chosen(SUPPORT))
            self.update()
