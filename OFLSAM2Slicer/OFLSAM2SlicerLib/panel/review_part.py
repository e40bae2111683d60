"""Part 4: confidence in the views, a chart of it along the slices, and slices to look at first."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from OFLSAM2SlicerLib.confidence import COLOR_STOPS, ConfidenceOverlay, show_only_below
from OFLSAM2SlicerLib.controller import Controller
from OFLSAM2SlicerLib.panel import tables
from OFLSAM2SlicerLib.panel.chart import confidence_chart
from OFLSAM2SlicerLib.review import ScoredSlice
from OFLSAM2SlicerLib.scene_nodes import is_in_scene

ROWS = 12


class ReviewPart:
    def __init__(self, ui: Any, controller: Controller) -> None:
        self._ui = ui
        self._controller = controller
        self._overlay = ConfidenceOverlay()
        self._parameters: Any = None
        self._listed: list[ScoredSlice] = []
        self._shown: tuple[Any, int] = (None, 0)
        tables.stretch(ui.doubtfulTable, 3)
        ui.doubtfulTable.connect("cellClicked(int,int)", self._on_clicked)
        ui.scoresTableButton.connect("clicked(bool)", self._on_table)
        ui.legendLabel.text = _legend()

    def show(self, parameters: Any) -> None:
        """Follow a parameter node; None: the scene is being closed."""
        self._parameters = parameters
        if parameters is None:
            self._overlay = ConfidenceOverlay()
        self.update_views()

    def update_views(self) -> None:
        """Make the slice views as the check box and the sliders say."""
        if self._parameters is None:
            return
        node = self._parameters.confidence
        if is_in_scene(node) and node.GetDisplayNode() is not None:
            show_only_below(node, self._parameters.confidenceThreshold)
            if self._parameters.showConfidence:
                self._overlay.show(node, self._parameters.confidenceOpacity)
                return
        if self._overlay.is_shown:
            self._overlay.hide(slicer.mrmlScene)

    def leave_views(self) -> None:
        """Give the slice views back as they were before."""
        if self._overlay.is_shown:
            self._overlay.hide(slicer.mrmlScene)

    def update_scores(self) -> None:
        """Show the scores of the run so far, where there are new ones."""
        run = self._controller.run
        scores = run.scores if run is not None else None
        now = (scores, scores.changes if scores is not None else 0)
        if now == self._shown:
            return
        self._shown = now
        self._listed = scores.most_doubtful(ROWS) if scores is not None else []
        several = scores is not None and scores.has_several_frames
        texts = [
            (_number(one, several), f"{one.doubt:.0f}", f"{one.confidence:.2f}", one.structure)
            for one in self._listed
        ]
        tables.fill(self._ui.doubtfulTable, texts)
        label = self._ui.chartLabel
        width = max(200, label.width)
        label.setPixmap(confidence_chart(scores.all() if scores is not None else [], width, 64))

    def _on_clicked(self, row: int, column: int) -> None:
        run = self._controller.run
        if run is not None and is_in_scene(run.target) and row < len(self._listed):
            run.show_slice(self._listed[row])

    def _on_table(self, *_args: Any) -> None:
        run = self._controller.run
        if run is None or not len(run.scores):
            return
        name = f"{run.target.GetName()} confidence by slice"
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
        run.scores.write_table(table)
        self._ui.messageLabel.text = _("Table '{name}' was made.").format(name=name)


def _number(scored: ScoredSlice, of_several_frames: bool) -> str:
    """As users count; of a sequence behind the frame's: "2: 7"."""
    slice_number = str(scored.index + 1)
    return f"{scored.frame + 1}: {slice_number}" if of_several_frames else slice_number


def _legend() -> str:
    """The colours, as a line of rich text."""
    parts = []
    for stop, color in COLOR_STOPS:
        red, green, blue = (round(255 * part) for part in color)
        parts.append(f'<span style="color:rgb({red},{green},{blue})">&#9632;</span> {stop:g}')
    return "&nbsp; ".join(parts)
