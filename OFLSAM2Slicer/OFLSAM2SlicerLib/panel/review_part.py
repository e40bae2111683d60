"""Part 4: the result in 3D and in the Segment Editor, its confidence, slices to look at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from OFLSAM2SlicerLib.confidence import COLOR_STOPS, ConfidenceOverlay, show_only_below
from OFLSAM2SlicerLib.controller import Controller
from OFLSAM2SlicerLib.panel import tables
from OFLSAM2SlicerLib.panel.chart import confidence_chart
from OFLSAM2SlicerLib.review import ScoredSlice
from OFLSAM2SlicerLib.scene_nodes import is_in_scene
from OFLSAM2SlicerLib.segmentation_writer import (
    has_results,
    is_reviewed,
    mark_reviewed,
    volume_segmented,
)
from OFLSAM2SlicerLib.sequences import volumes_worked_on

ROWS = 8
LISTED = 12
EDITS_SETTLE_MS = 400  # strokes of a brush come one after the other


class ReviewPart:
    """is_open: whether the module is the open one; else the views are left alone."""

    def __init__(self, ui: Any, controller: Controller, say: Callable[[str], None]) -> None:
        self._ui = ui
        self._controller = controller
        self._say = say
        self._overlay = ConfidenceOverlay()
        self._parameters: Any = None
        self._listed: list[ScoredSlice] = []
        self._shown: tuple[Any, int] = (None, 0)
        self._is_filling = False
        self._followed: Any = None  # the segmentation whose edits are noticed
        self._tags: list[int] = []
        self._is_edited = False
        self.is_open = False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(EDITS_SETTLE_MS)
        self._timer.connect("timeout()", lambda: self.look_for_corrections())
        tables.stretch(ui.doubtfulTable, 4)
        tables.fit(ui.doubtfulTable, ROWS)
        ui.doubtfulTable.connect("cellClicked(int,int)", self._on_clicked)
        ui.doubtfulTable.connect("currentCellChanged(int,int,int,int)", self._on_current)
        ui.scoresTableButton.connect("clicked(bool)", self._on_table)
        ui.editButton.connect("clicked(bool)", self._on_edit)
        ui.reviewedButton.connect("clicked(bool)", self._on_reviewed)
        ui.legendLabel.text = _legend()
        self._show_corrected([])

    def show(self, parameters: Any) -> None:
        """Follow a parameter node; None: the scene is being closed."""
        self._parameters = parameters
        if parameters is None:
            self._overlay = ConfidenceOverlay()
        self.update_views()
        self.update_scores()
        self.update_result()
        if parameters is None:
            self._show_corrected([])

    def update_views(self) -> None:
        """Make the slice views as the check box and the sliders say, while the module is open."""
        if self._parameters is None:
            return
        node = self._parameters.confidence
        if is_in_scene(node) and node.GetDisplayNode() is not None:
            show_only_below(node, self._parameters.confidenceThreshold)
            if self._parameters.showConfidence and self.is_open:
                self._overlay.show(node, self._parameters.confidenceOpacity, self._volumes())
                return
        self.leave_views()

    def leave_views(self) -> None:
        """Give the slice views back as they were before."""
        if self._overlay.is_shown:
            self._overlay.hide(slicer.mrmlScene)

    def update_result(self) -> None:
        """Enable what needs a result, where there is one: 3D, the editor, the review."""
        node = self._parameters.segmentation if self._parameters is not None else None
        there = (
            node is not None
            and is_in_scene(node)
            and node.GetSegmentation().GetNumberOfSegments() > 0
        )
        running = self._controller.status.is_running
        self._follow(node.GetSegmentation() if node is not None and there else None)
        if running:
            self._show_corrected([])
        self._ui.show3DButton.setSegmentationNode(node if there else None)
        self._ui.editButton.enabled = there
        reviewed = there and is_reviewed(node)
        can_be_reviewed = there and has_results(node) and not reviewed
        self._ui.reviewedButton.enabled = can_be_reviewed and not running
        self._ui.addToSupportButton.enabled = reviewed and not running
        self._ui.reviewedButton.text = _("Reviewed: completed") if reviewed else _("Reviewed")

    def look_for_corrections(self, again: bool = False) -> None:
        """Which slices the user changed since the run, where something was changed at all.

        again: look, whether or not something was changed since the last time.
        """
        self._is_edited = self._is_edited or again
        if not self._is_edited or not self.is_open or self._controller.status.is_running:
            return
        self._is_edited = False
        if self._is_of_run():
            self._controller.find_corrections(self._show_found)
        else:
            self._show_corrected([])

    def _is_of_run(self) -> bool:
        """Whether the result of the last run is the one that is chosen: its volume may have two."""
        run = self._controller.run
        return run is not None and self._followed is run.segmentation.GetSegmentation()

    def _show_found(self, indices: list[int]) -> None:
        self._show_corrected(indices if self._is_of_run() else [])

    def _follow(self, segmentation: Any) -> None:
        """Notice what is edited in a segmentation."""
        if segmentation is self._followed:
            return
        for tag in self._tags:
            self._followed.RemoveObserver(tag)
        self._followed, self._tags = segmentation, []
        if segmentation is not None:
            kind = slicer.vtkSegmentation
            for event in (kind.SegmentModified, kind.SourceRepresentationModified):
                self._tags.append(segmentation.AddObserver(event, self._on_edited))
        self.look_for_corrections(again=True)

    def _on_edited(self, *_args: Any) -> None:
        if not self._controller.status.is_running:
            self._is_edited = True
            self._timer.start()

    def _show_corrected(self, indices: list[int]) -> None:
        self._ui.correctedLabel.text = corrected_in_words(indices)
        self._ui.correctedLabel.visible = bool(indices)
        self._ui.learnCorrectionsButton.visible = bool(indices)

    def update_scores(self) -> None:
        """Show the scores of the run so far, where there are new ones."""
        run = self._controller.run
        scores = run.scores if run is not None else None
        now = (scores, scores.changes if scores is not None else 0)
        if now == self._shown:
            return
        is_another, self._shown = scores is not self._shown[0], now
        self._listed = scores.most_doubtful(ROWS) if scores is not None else []
        several = scores is not None and scores.has_several_frames
        texts = [
            (
                _number(one, several),
                run.place_in_words(one) if run is not None else "",
                f"{one.doubt:.0f}",
                f"{one.confidence:.2f}",
                one.structure,
            )
            for one in self._listed
        ]
        self._is_filling = True
        tables.fill(self._ui.doubtfulTable, texts)
        tables.fit(self._ui.doubtfulTable, ROWS)
        if is_another:  # What was chosen of the volume before says nothing of this one.
            self._ui.doubtfulTable.setCurrentCell(-1, -1)
        self._is_filling = False
        label = self._ui.chartLabel
        width = max(200, label.width)
        label.setPixmap(confidence_chart(scores.all() if scores is not None else [], width, 64))

    def go(self, step: int) -> None:
        """To the next (1) or the previous (-1) of the listed slices; the first one at first."""
        table = self._ui.doubtfulTable
        if not self._listed:
            return
        current = table.currentRow()
        row = 0 if current < 0 else min(max(current + step, 0), len(self._listed) - 1)
        if row != current:
            tables.select_row(table, row)  # and from that to the slice
        else:
            self._show_slice(row)

    def _volumes(self) -> list[Any]:
        """The volumes whose views have the confidence over them."""
        run = self._controller.run
        nodes = [run.target] if run is not None and is_in_scene(run.target) else []
        if self._parameters.target is not None:
            nodes += volumes_worked_on(self._parameters.target)
        return nodes

    def _on_clicked(self, row: int, column: int) -> None:
        self._show_slice(row)

    def _on_current(self, row: int, *_others: int) -> None:
        if not self._is_filling:
            self._show_slice(row)

    def _show_slice(self, row: int) -> None:
        run = self._controller.run
        if run is not None and is_in_scene(run.target) and 0 <= row < len(self._listed):
            run.show_slice(self._listed[row])

    def _on_edit(self, *_args: Any) -> None:
        node = self._parameters.segmentation
        run = self._controller.run
        volume = volume_segmented(node)
        if volume is None and run is not None and run.segmentation is node:
            volume = run.target
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(node)
        if volume is not None:
            editor.setSourceVolumeNode(volume)

    def _on_reviewed(self, *_args: Any) -> None:
        mark_reviewed(self._parameters.segmentation)
        self.update_result()

    def _on_table(self, *_args: Any) -> None:
        run = self._controller.run
        if run is None or not len(run.scores):
            return
        name = f"{run.target.GetName()} confidence by slice"
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
        run.scores.write_table(table)
        self._say(_("Table '{name}' was made.").format(name=name))


def corrected_in_words(indices: list[int]) -> str:
    """The slices that were corrected, counted from 1."""
    if not indices:
        return ""
    numbers = ", ".join(str(index + 1) for index in indices[:LISTED])
    if len(indices) > LISTED:
        numbers += ", ..."
    if len(indices) == 1:
        return _("1 slice corrected since the run: {numbers}.").format(numbers=numbers)
    return _("{count} slices corrected since the run: {numbers}.").format(
        count=len(indices), numbers=numbers
    )


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
