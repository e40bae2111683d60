"""Part 1: the volume to segment, the support cases, and the structures found in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from OFLSAM2Core.data.structures import Structure
from OFLSAM2SlicerLib.cases import SupportPair, matching_pairs
from OFLSAM2SlicerLib.panel import tables
from OFLSAM2SlicerLib.structures import FoundStructure
from OFLSAM2SlicerLib.support_list import SupportList, SupportRow, rows_of, structures_in, why_not

FINE = (0.16, 0.63, 0.35)
REMARK = (0.95, 0.69, 0.14)
PROBLEM = (0.83, 0.18, 0.18)
ROWS = 8
LETTERS = {1: 24, 3: 16}  # of the volume and the remark; the segmentation has the rest
WIDGETS = (
    "supportLabel",
    "supportTable",
    "supportVolumeSelector",
    "supportLabelsSelector",
    "addSupportButton",
    "addAllButton",
    "removeSupportButton",
    "structuresLabel",
    "structuresTable",
    "allowMissingCheckBox",
)


class SupportPart:
    """changed: called when what can be run may have changed."""

    def __init__(self, ui: Any, changed: Callable[[], None]) -> None:
        self._ui = ui
        self._changed = changed
        self._parameters: Any = None
        self._rows: list[SupportRow] = []
        self._found: list[FoundStructure] = []
        self._is_filling = False
        self._is_enabled = True
        tables.stretch(ui.supportTable, 2)
        tables.stretch(ui.structuresTable, 0)
        ui.addSupportButton.connect("clicked(bool)", self._on_add)
        ui.addAllButton.connect("clicked(bool)", self._on_add_all)
        ui.removeSupportButton.connect("clicked(bool)", self._on_remove)
        ui.structuresTable.connect("itemChanged(QTableWidgetItem*)", self._on_ticked)

    def show(self, parameters: Any) -> None:
        """Show the support cases of a parameter node; None clears the tables."""
        self._parameters = parameters
        self.refresh()

    def refresh(self) -> None:
        """Look at the support cases again: nodes may have been changed or removed."""
        support = self._support()
        self._rows = rows_of(support.pairs()) if support else []
        self._found = structures_in(self._rows)
        self._show_rows()
        self._show_structures(support.ignored() if support else set())
        self._changed()

    def enable(self, enabled: bool) -> None:
        """Support cases are of no use while a learned task is used, and greyed."""
        if enabled == self._is_enabled:
            return
        self._is_enabled = enabled
        for name in WIDGETS:
            getattr(self._ui, name).enabled = enabled

    @property
    def is_enabled(self) -> bool:
        return self._is_enabled

    @property
    def selected(self) -> SupportPair | None:
        """The support case whose row is selected; None where it is none or several."""
        rows = tables.selected_rows(self._ui.supportTable)
        return self.pairs[rows[0]] if len(rows) == 1 and rows[0] < len(self._rows) else None

    def set_further(self, volumes: tuple[Any, ...]) -> None:
        """Set the volumes that are co-registered with the selected case's own."""
        support = self._support()
        rows = tables.selected_rows(self._ui.supportTable)
        if support and len(rows) == 1:
            support.set_further(rows[0], volumes)
            self.refresh()

    @property
    def pairs(self) -> list[SupportPair]:
        return [row.pair for row in self._rows]

    def wanted(self) -> list[Structure]:
        """The ticked structures."""
        ignored = self._ignored()
        return [one.structure for one in self._found if one.structure.name not in ignored]

    def why_not(self, further: tuple[Any, ...] = ()) -> str:
        """Why a run with these support cases cannot start; "" where it can. further: volumes that
        are co-registered with the one to segment."""
        parameters = self._parameters
        if parameters is None:
            return _("The scene is being closed.")
        return why_not(
            parameters.target,
            self._rows,
            self._found,
            self._ignored(),
            parameters.allowMissing,
            further,
        )

    def _show_rows(self) -> None:
        table = self._ui.supportTable
        tables.fill(
            table,
            [
                (
                    "",
                    _volumes(row.pair),
                    row.pair.labels_node.GetName(),
                    row.problem or row.remark or _("fine"),
                )
                for row in self._rows
            ],
        )
        for position, row in enumerate(self._rows):
            color = PROBLEM if row.problem else REMARK if row.remark else FINE
            table.item(position, 0).setIcon(tables.dot(color))
            table.item(position, 1).setToolTip(row.pair.volumes_in_words)
        tables.limit(table, LETTERS)
        tables.fit(table, ROWS)

    def _show_structures(self, ignored: set[str]) -> None:
        self._is_filling = True
        table = self._ui.structuresTable
        count = sum(1 for row in self._rows if not row.problem)
        where = _("{found} of {all} cases")
        texts = [
            (one.structure.name, where.format(found=len(one.cases), all=count))
            for one in self._found
        ]
        tables.fill(table, texts)
        for position, one in enumerate(self._found):
            item = table.item(position, 0)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            is_ticked = one.structure.name not in ignored
            item.setCheckState(qt.Qt.Checked if is_ticked else qt.Qt.Unchecked)
            item.setIcon(tables.dot(one.structure.color))
        tables.fit(table, ROWS)
        for widget in (table, self._ui.structuresLabel, self._ui.allowMissingCheckBox):
            widget.visible = bool(self._found)
        self._is_filling = False

    def _on_add(self, *_args: Any) -> None:
        volume = self._ui.supportVolumeSelector.currentNode()
        labels = self._ui.supportLabelsSelector.currentNode()
        support = self._support()
        if support and volume is not None and labels is not None:
            support.add([SupportPair(volume, labels)])
            self._ui.supportVolumeSelector.setCurrentNode(None)
            self._ui.supportLabelsSelector.setCurrentNode(None)
            self.refresh()
            tables.select_row(self._ui.supportTable, len(self._rows) - 1)

    def add(self, pair: SupportPair) -> None:
        support = self._support()
        if support:
            support.add([pair])
            self.refresh()

    def _on_add_all(self, *_args: Any) -> None:
        support = self._support()
        if not support:
            return
        target, output = self._parameters.target, self._parameters.segmentation
        found = [
            pair for pair in matching_pairs(slicer.mrmlScene) if pair.volume_node is not target
        ]
        if any(pair.labels_node is output for pair in found):
            # The result of the volume before, still the chosen output: it teaches from now on.
            self._parameters.segmentation = self._parameters.confidence = None
        support.add(found)
        self.refresh()

    def _on_remove(self, *_args: Any) -> None:
        support = self._support()
        if support:
            support.remove(tables.selected_rows(self._ui.supportTable))
            self.refresh()

    def _on_ticked(self, *_args: Any) -> None:
        support = self._support()
        if self._is_filling or not support:
            return
        table = self._ui.structuresTable
        support.set_ignored(
            one.structure.name
            for position, one in enumerate(self._found)
            if table.item(position, 0).checkState() == qt.Qt.Unchecked
        )
        self._changed()

    def _ignored(self) -> set[str]:
        support = self._support()
        return support.ignored() if support else set()

    def _support(self) -> SupportList | None:
        return SupportList(self._parameters.parameterNode) if self._parameters else None


def _volumes(pair: SupportPair) -> str:
    """Short, so that the remark beside it can be read; all names are in the tool tip."""
    count = len(pair.further_nodes)
    return _("{name} + {count} more").format(name=pair.name, count=count) if count else pair.name
