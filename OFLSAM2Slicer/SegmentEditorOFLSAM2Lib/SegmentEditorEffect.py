"""Predicts the selected segment with a learned task, in the current slice or in all of them.

The volume is predicted once; further slices and further segments of it are taken from what came
then, until the volume or the task is another. Masking, overwriting and undo are the editor's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qt
import slicer
from OFLSAM2SlicerLib.effect_prediction import Prediction, current_slice, editable_overlay
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

from OFLSAM2Core.errors import OFLSAM2Error

FILES = "OFL-SAM2 learned tasks (*.oflsam2)"


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "OFL-SAM2"  # not translated: modules find effects by name
        scriptedEffect.title = _("OFL-SAM2")
        scriptedEffect.perSegment = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self._prediction: Prediction | None = None

    def clone(self) -> Any:
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        cloned = effects.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(Path(__file__).as_posix())
        return cloned

    def icon(self) -> Any:
        icons = Path(__file__).resolve().parent.parent / "Resources" / "Icons"
        return qt.QIcon(str(icons / "OFLSAM2Slicer.png"))

    def helpText(self) -> str:
        return _(
            "Predict the selected segment with a task that the module OFL-SAM2 has learned or "
            "loaded: in the current slice of the first slice view, or in all slices. The segment "
            "is told by its terminology or name. Masking settings hold, and Undo takes it back."
        )

    def setupOptionsFrame(self) -> None:
        self.taskLabel = qt.QLabel()
        self.taskLabel.setWordWrap(True)
        self.loadButton = qt.QPushButton(_("Load a learned task..."))
        self.sliceButton = qt.QPushButton(_("Predict in this slice"))
        self.allButton = qt.QPushButton(_("Predict in all slices"))
        self.cancelButton = qt.QPushButton(_("Cancel"))
        self.messageLabel = qt.QLabel()
        self.messageLabel.setWordWrap(True)
        for widget in (
            self.taskLabel,
            self.loadButton,
            self.sliceButton,
            self.allButton,
            self.cancelButton,
            self.messageLabel,
        ):
            self.scriptedEffect.addOptionsWidget(widget)
        self.loadButton.connect("clicked(bool)", self.onLoad)
        self.sliceButton.connect("clicked(bool)", lambda *_args: self.onPredict(False))
        self.allButton.connect("clicked(bool)", lambda *_args: self.onPredict(True))
        self.cancelButton.connect("clicked(bool)", lambda *_args: self.prediction.cancel())

    @property
    def prediction(self) -> Prediction:
        """Made when first needed: the module's panel, whose task and worker are used, may not be
        there yet when effects are registered."""
        if self._prediction is None:
            panel = slicer.modules.oflsam2slicer.widgetRepresentation().self()
            self._prediction = Prediction(
                panel.logic.controller, panel.effectSettings, panel.furtherVolumes
            )
        return self._prediction

    def activate(self) -> None:
        self.updateGUIFromMRML()

    def updateGUIFromMRML(self) -> None:
        learned = self.prediction.learned
        names = ", ".join(one.name for one in learned.structures) if learned is not None else ""
        self.taskLabel.setText(
            _("Learned task: {names}").format(names=names)
            if names
            else _("Nothing is learned yet.")
        )
        running = self.prediction.is_running
        for button in (self.sliceButton, self.allButton):
            button.setEnabled(learned is not None and not running)
        self.cancelButton.setEnabled(running)

    def onLoad(self, *_args: Any) -> None:
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Load a learned task"), "", FILES
        )
        path = path[0] if isinstance(path, tuple) else path
        if path:
            self.prediction.load(str(path), self._loaded, self._say)

    def _loaded(self) -> None:
        self._say("")
        self.updateGUIFromMRML()

    def onPredict(self, everywhere: bool) -> None:
        """Predict the volume where that was not done yet, and edit the segment once it is."""
        node = self.scriptedEffect.parameterSetNode()
        segmentation, segment_id = node.GetSegmentationNode(), node.GetSelectedSegmentID()
        volume = node.GetSourceVolumeNode()
        segment = segmentation.GetSegmentation().GetSegment(segment_id or "")
        if volume is None or segment is None:
            self._say(_("Choose a source volume and a segment."))
            return
        try:
            place = None if everywhere else current_slice(volume)
            self.prediction.predict(
                volume,
                segment,
                lambda mask: self._apply(volume, segmentation, segment_id, mask, place),
                self._say,
            )
        except OFLSAM2Error as error:
            self._say(str(error))
        self.updateGUIFromMRML()

    def _apply(
        self, volume: Any, segmentation: Any, segment_id: str, mask: Any, place: Any
    ) -> None:
        """Add what is predicted, and remove what is not, in a slice or everywhere: one step of
        undo."""
        node = self.scriptedEffect.parameterSetNode()
        self.updateGUIFromMRML()
        if node.GetSegmentationNode() is not segmentation or (
            node.GetSelectedSegmentID() != segment_id
        ):
            self._say(_("Another segment was selected meanwhile: nothing was changed."))
            return
        modes = slicer.qSlicerSegmentEditorAbstractEffect
        self.scriptedEffect.saveStateForUndo()
        for inside, mode in (
            (False, modes.ModificationModeRemove),
            (True, modes.ModificationModeAdd),
        ):
            reference = self.scriptedEffect.defaultModifierLabelmap()
            overlay = editable_overlay(volume, segmentation, mask == inside, place, reference)
            self.scriptedEffect.modifySelectedSegmentByLabelmap(overlay, mode)
        self._say("")

    def _say(self, text: str) -> None:
        self.messageLabel.setText(text)
        self.updateGUIFromMRML()
