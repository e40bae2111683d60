"""The module OFL-SAM2: segment a volume from two or three labelled ones.

This file is what Slicer looks for: module, parameter node, panel, logic, self test. What they do is
in OFLSAM2SlicerLib (scene side, states, panel parts) and OFLSAM2Core (the science, the worker).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import slicer
import vtk
from slicer import (
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLSequenceNode,
    vtkMRMLVectorVolumeNode,
)
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# In a source tree the core stands beside this folder; an installed module finds it beside itself.
_core_folder = Path(__file__).resolve().parent.parent
if (_core_folder / "OFLSAM2Core" / "errors.py").is_file() and str(_core_folder) not in sys.path:
    sys.path.append(str(_core_folder))

from OFLSAM2SlicerLib.cases import SupportPair  # noqa: E402
from OFLSAM2SlicerLib.controller import Controller  # noqa: E402
from OFLSAM2SlicerLib.effect_registration import register_effect  # noqa: E402
from OFLSAM2SlicerLib.further_volumes import PART, why_not_so_many  # noqa: E402
from OFLSAM2SlicerLib.method_options import checked_options  # noqa: E402
from OFLSAM2SlicerLib.sample_data import register_sample_data  # noqa: E402
from OFLSAM2SlicerLib.scene_nodes import nodes_of_class  # noqa: E402
from OFLSAM2SlicerLib.segmentation_writer import (  # noqa: E402
    holds_result_of_others,
    volume_segmented,
)
from OFLSAM2SlicerLib.sequences import volumes_worked_on  # noqa: E402
from OFLSAM2SlicerLib.worker_command import worker_command  # noqa: E402
from OFLSAM2SlicerLib.worker_link import shared_link  # noqa: E402

from OFLSAM2Core.app.run_request import Learned, RunSettings  # noqa: E402
from OFLSAM2Core.app.states import State, Status  # noqa: E402
from OFLSAM2Core.data.volume_count import OF_TASK  # noqa: E402
from OFLSAM2Core.errors import OFLSAM2Error  # noqa: E402
from OFLSAM2Core.methods import DEFAULT  # noqa: E402

VOLUME = "vtkMRMLVolumeNode"
POLL_MS = 30  # the worker's answers are looked for this often; views are redrawn at most at 10 Hz


class OFLSAM2Slicer(ScriptedLoadableModule):
    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("OFL-SAM2")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Volumes", "Sequences"]
        self.parent.contributors = ["The OFL-SAM2 for 3D Slicer contributors"]
        self.parent.helpText = _(
            "Segments a volume as two or three labelled volumes show it. Pick the volume, pick "
            "the labelled volumes as support cases, and press Segment: the result grows slice by "
            "slice, with a map of where it can be trusted.<br><br>"
            "<b>Not for clinical use.</b> Look at every result; the slices the method is least "
            "sure of are listed first. For structures that look alike in every patient and for "
            "which a trained model exists, use that model; for a single volume without labelled "
            "ones, use the Segment Editor.<br><br>"
            "See the <a href='https://github.com/OFLSAM2/SlicerOFLSAM2#readme'>documentation</a>."
        )
        self.parent.acknowledgementText = _(
            "The method is that of <i>OFL-SAM2: Prompt SAM2 with Online Few-shot Learner for "
            "Efficient Medical Image Segmentation</i> "
            "(<a href='https://arxiv.org/abs/2512.24861'>arXiv:2512.24861</a>). It stands on SAM 2 "
            "by Meta AI and on LiteMedSAM by the MedSAM authors. The extension learned much from "
            "SlicerNNUnet, SlicerNNInteractive and SlicerMultiverSeg."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)
        if not slicer.app.commandOptions().noMainWindow:
            slicer.app.connect("startupCompleted()", register_effect)


@parameterNodeWrapper
class OFLSAM2SlicerParameterNode:
    """What the user chose; saved with the scene. Support cases: `support_list.SupportList`.

    The worker's command and paths of weights are this computer's, and so in its settings.
    changedOptions: of each method, what was changed by hand; JSON.
    """

    target: vtkMRMLScalarVolumeNode | vtkMRMLVectorVolumeNode | vtkMRMLSequenceNode | None
    segmentation: vtkMRMLSegmentationNode
    confidence: vtkMRMLScalarVolumeNode
    useLearnedTask: bool = False
    learnedTaskPath: str = ""
    allowMissing: bool = False
    backbone: str = "litemedsam"
    device: str = "auto"
    showConfidence: bool = True
    confidenceOpacity: Annotated[float, WithinRange(0, 1)] = 0.5
    confidenceThreshold: Annotated[float, WithinRange(0, 1)] = 0.9
    method: str = ""
    preset: Annotated[str, Choice(["fast", "balanced", "accurate"])] = "balanced"
    changedOptions: str = ""


class OFLSAM2SlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Shows the state of the logic, and passes on clicks."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: OFLSAM2SlicerLogic | None = None
        self._parameterNode: Any = None
        self._parameterNodeGuiTag: int | None = None

    def setup(self) -> None:
        """Nothing is imported, installed, downloaded or started here."""
        ScriptedLoadableModuleWidget.setup(self)
        from OFLSAM2SlicerLib.installer import Installer
        from OFLSAM2SlicerLib.panel.cohort_part import CohortPart
        from OFLSAM2SlicerLib.panel.further_part import FurtherPart
        from OFLSAM2SlicerLib.panel.model_part import ModelPart
        from OFLSAM2SlicerLib.panel.options_part import OptionsPart
        from OFLSAM2SlicerLib.panel.review_part import ReviewPart
        from OFLSAM2SlicerLib.panel.run_part import RunPart
        from OFLSAM2SlicerLib.panel.setup_part import SetupPart
        from OFLSAM2SlicerLib.panel.shortcuts import Shortcuts
        from OFLSAM2SlicerLib.panel.support_part import SupportPart
        from OFLSAM2SlicerLib.panel.task_part import TaskPart
        from OFLSAM2SlicerLib.panel.times import RunTimes

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/OFLSAM2Slicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = OFLSAM2SlicerLogic()
        controller = self.logic.controller
        self.times = RunTimes()
        self.runPart = RunPart(self.ui)
        self.reviewPart = ReviewPart(self.ui, controller, self.runPart.say)
        self.modelPart = ModelPart(self.ui, controller)
        self.setupPart = SetupPart(
            self.ui,
            Installer(self.resourcePath("requirements.txt")),
            self.modelPart,
            lambda: controller.link.command,
            self.runPart.say,
        )
        self.taskPart = TaskPart(self.ui, controller, self.showStatus, self.logic.useWorker)
        self.optionsPart = OptionsPart(self.ui, self.showStatus)
        self.supportPart = SupportPart(self.ui, self.showStatus)
        self.furtherPart = FurtherPart(self.ui, self.supportPart, self.showStatus)
        self.cohortPart = CohortPart(
            self.ui,
            controller,
            self.onCaseLoaded,
            self.runPart.say,
            lambda: [pair.volume_node for pair in self.supportPart.pairs],
        )
        controller.listeners.append(self.onStatus)
        self.logic.onTick = self.onTick
        self.ui.segmentButton.connect("clicked(bool)", self.onSegmentButton)
        self.ui.undoButton.connect("clicked(bool)", self.onUndoButton)
        self.ui.learnCorrectionsButton.connect("clicked(bool)", self.onLearnCorrections)
        self.ui.addToSupportButton.connect("clicked(bool)", self.onAddToSupport)
        self.shortcuts = Shortcuts(
            slicer.util.mainWindow() or self.parent,
            {
                "Ctrl+Return": self.ui.segmentButton.click,
                "Ctrl+Enter": self.ui.segmentButton.click,  # of the number pad
                "N": lambda: self.reviewPart.go(1),
                "P": lambda: self.reviewPart.go(-1),
            },
        )

        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.NodeAddedEvent, self.onNodeAdded)
        self.addObserver(scene, scene.NodeRemovedEvent, self.onNodeRemoved)
        slicer.app.connect("aboutToQuit()", self.logic.shutDown)
        self.taskPart.use_worker()
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """The module is reloaded, or the application closes."""
        if self.logic is not None:
            self.reviewPart.leave_views()
            self.setParameterNode(None)
            self.removeObservers()
            self.shortcuts.remove()
            self.cohortPart.follow(False)
            slicer.app.disconnect("aboutToQuit()", self.logic.shutDown)
            self.logic.shutDown()

    def enter(self) -> None:
        self.initializeParameterNode()
        self.reviewPart.is_open = True
        self.shortcuts.enable(True)
        self.cohortPart.follow(True)
        for view in nodes_of_class(slicer.mrmlScene, "vtkMRMLSliceCompositeNode"):
            self.followView(view)
        self.reviewPart.update_views()
        self.reviewPart.look_for_corrections()

    def exit(self) -> None:
        """The run goes on; the panel follows it when it is opened again. Views are given back."""
        self.reviewPart.is_open = False
        self.shortcuts.enable(False)
        self.cohortPart.follow(False)
        for view in nodes_of_class(slicer.mrmlScene, "vtkMRMLSliceCompositeNode"):
            self.removeObserver(view, vtk.vtkCommand.ModifiedEvent, self.onViewModified)
        self.reviewPart.leave_views()

    def onReload(self) -> None:
        """Have the files of the library and of the core read again, too."""
        self.cleanup()
        for name in list(sys.modules):
            if name.split(".")[0] in ("OFLSAM2SlicerLib", "OFLSAM2Core"):
                del sys.modules[name]
        self.logic = None
        ScriptedLoadableModuleWidget.onReload(self)

    # The scene

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        assert self.logic is not None
        self.setParameterNode(None)
        self.logic.forgetParameterNode()
        self.logic.controller.scene_is_closing()
        self.cohortPart.scene_is_closing()

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller: Any, event: Any) -> None:
        """A scene that was opened brings its support cases after the old one was closed."""
        assert self.logic is not None
        self.logic.readParametersAgain()
        if self.parent.isEntered:
            self.initializeParameterNode()

    def followView(self, view: Any) -> None:
        if not self.hasObserver(view, vtk.vtkCommand.ModifiedEvent, self.onViewModified):
            self.addObserver(view, vtk.vtkCommand.ModifiedEvent, self.onViewModified)

    def onViewModified(self, caller: Any, event: Any) -> None:
        """Only views of its volume have the confidence over it."""
        self.reviewPart.update_views()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAdded(self, caller: Any, event: Any, node: Any) -> None:
        if self.reviewPart.is_open and node.IsA("vtkMRMLSliceCompositeNode"):
            self.followView(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller: Any, event: Any, node: Any) -> None:
        if self._parameterNode is None:
            return
        if any(node in pair.nodes for pair in self.supportPart.pairs):
            self.supportPart.refresh()
        self.furtherPart.update()
        self.showStatus()

    def initializeParameterNode(self) -> None:
        assert self.logic is not None
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show and follow a parameter node; None while there is none."""
        if parameterNode is not self._parameterNode:
            if self._parameterNode is not None:
                self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
                self.removeObserver(
                    self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified
                )
            self._parameterNode, self._parameterNodeGuiTag = parameterNode, None
            if parameterNode is not None:
                self._parameterNodeGuiTag = parameterNode.connectGui(self.ui)
                self.addObserver(
                    parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified
                )
        for part in (
            self.modelPart,
            self.taskPart,
            self.optionsPart,
            self.supportPart,
            self.furtherPart,
            self.reviewPart,
        ):
            part.show(parameterNode)
        self.showStatus()

    def onParametersModified(self, caller: Any = None, event: Any = None) -> None:
        self.supportPart.enable(not self._parameterNode.useLearnedTask)
        self.optionsPart.show(self._parameterNode)
        self.furtherPart.update()
        self.reviewPart.update_views()
        self.reviewPart.update_result()
        self.showStatus()

    # The run

    def whyNot(self) -> str:
        """Why a run cannot start now; "" where it can."""
        if self._parameterNode is None:
            return _("The scene is being closed.")
        target, further = self._parameterNode.target, self.furtherPart.of_target()
        if not self._parameterNode.useLearnedTask:
            method = self.optionsPart.method
            if further and not method.further_volumes:
                return _(
                    "The method '{name}' sees one volume of a patient: choose another method, or "
                    "take the others out, in the part {part}."
                ).format(name=method.name, part=PART)
            return self.supportPart.why_not(further)
        if target is None:
            return _("Pick the volume to segment.")
        learned = self.logic.controller.learned if self.logic is not None else None
        if learned is None:
            if self.taskPart.can_load():
                return ""
            return _("Load a learned task, in the part Learned task.")
        count = 1 + len(further)
        return why_not_so_many(target.GetName(), count, learned.volume_count, OF_TASK)

    def onStatus(self, status: Status) -> None:
        if self._parameterNode is None or self.logic is None:
            return
        controller = self.logic.controller
        self.times.follow(status)
        self.runPart.show(status, self.whyNot(), controller.can_undo)
        expected = "" if status.is_running else self.expectedTime()
        self.ui.expectedTimeLabel.text = expected
        self.ui.expectedTimeLabel.visible = bool(expected)

    def showStatus(self) -> None:
        if self.logic is not None:
            self.onStatus(self.logic.controller.status)

    def expectedTime(self) -> str:
        """How long the run would take, by the one before."""
        chosen = self._parameterNode
        target = chosen.target
        image = target.GetImageData() if target is not None and target.IsA(VOLUME) else None
        slices = image.GetDimensions()[2] if image is not None else 0
        return self.times.expected(self.timesKey(), chosen.useLearnedTask, slices)

    def timesKey(self) -> str:
        """What decides on how long a run takes."""
        chosen = self._parameterNode
        worker = "slicer" if not self.taskPart.worker_command else "other"
        effort = (self.optionsPart.method.name, chosen.preset)
        return "-".join((worker, self.backbone(), chosen.device, *effort))

    def backbone(self) -> str:
        """The model of the next run: a learned task needs the one it was learned with, and some
        methods need none ("")."""
        assert self.logic is not None
        learned = self.logic.controller.learned
        if self._parameterNode.useLearnedTask and learned is not None:
            return learned.backbone
        needed = self.optionsPart.method.needs_backbone
        return str(self._parameterNode.backbone) if needed else ""

    def onTick(self) -> None:
        """Once a poll, while there is something to follow."""
        self.reviewPart.update_scores()
        self.taskPart.show_log()

    def onSegmentButton(self, checked: bool = False) -> None:
        """Start a run, once all that it needs is there; or cancel the one there is."""
        assert self.logic is not None
        if self.logic.controller.status.is_running:
            self.logic.controller.cancel()
            return
        if self._parameterNode is None or self.whyNot():
            return
        try:
            self.logic.useWorker(self.taskPart.worker_command)
        except OFLSAM2Error as error:
            self.runPart.say(str(error))
            return
        path = self.taskPart.can_load() if self._parameterNode.useLearnedTask else ""
        if path:
            self.taskPart.load(path, self.onSegmentButton)
        elif not self.setupPart.prepare(self.backbone(), self.onSegmentButton):
            self.startRun()

    def settings(self) -> RunSettings:
        """What is chosen in the panel, for the worker. Raises InputError."""
        backbone, method = self.backbone(), self.optionsPart.method.name
        return RunSettings(
            backbone=backbone,
            device=self._parameterNode.device,
            method=method,
            options=checked_options(self.optionsPart.options(), method),
            allow_missing=self._parameterNode.allowMissing,
            weights=self.modelPart.weights_of(backbone) if backbone else "",
        )

    def furtherVolumes(self, volume: Any) -> tuple[Any, ...]:
        """Those that are co-registered with a volume, as the panel has them."""
        return self.furtherPart.of(volume)

    def effectSettings(self) -> RunSettings:
        """For the Segment Editor's effect, which uses the learned task. Raises InputError."""
        assert self.logic is not None
        self.logic.useWorker(self.taskPart.worker_command)
        learned = self.logic.controller.learned
        backbone = learned.backbone if learned is not None else ""
        weights = self.modelPart.weights_of(backbone) if backbone else ""
        return RunSettings(backbone=backbone, device=self._parameterNode.device, weights=weights)

    def startRun(self) -> None:
        assert self.logic is not None
        controller, chosen = self.logic.controller, self._parameterNode
        use_task = chosen.useLearnedTask
        try:
            settings = self.settings()
            output = chosen.segmentation
            if output is not None and holds_result_of_others(
                output, volumes_worked_on(chosen.target)
            ):
                # The result of another volume, and perhaps corrected by hand: it stays.
                chosen.segmentation = chosen.confidence = None
            self.times.begin(self.timesKey())
            chosen.segmentation = controller.segment(
                chosen.target,
                settings,
                pairs=() if use_task else self.supportPart.pairs,
                learned=controller.learned if use_task else None,
                segmentation=chosen.segmentation,
                confidence=chosen.confidence,
                wanted=None if use_task else self.supportPart.wanted(),
                further=self.furtherPart.of_target(),
            )
            run = controller.run
            chosen.confidence = run.confidence if run is not None else None
        except OFLSAM2Error as error:
            self.runPart.say(str(error))
            return
        self.followRun()

    def followRun(self) -> None:
        assert self.logic is not None
        self.modelPart.set_running(True)
        self.reviewPart.update_result()
        self.ui.reviewCollapsibleButton.collapsed = False
        self.logic.onSettled.append(self.onSettled)

    def onCaseLoaded(self, volume: Any, segmentation: Any, confidence: Any, further: Any) -> None:
        """A case of the cohort is in the scene: show it as if it had been segmented here."""
        chosen = self._parameterNode
        if chosen is None:
            return
        chosen.target, chosen.segmentation, chosen.confidence = volume, segmentation, confidence
        self.furtherPart.set_of_target(further)
        for view in nodes_of_class(slicer.mrmlScene, "vtkMRMLSliceCompositeNode"):
            view.SetBackgroundVolumeID(volume.GetID())
        self.ui.reviewCollapsibleButton.collapsed = False
        self.reviewPart.update_scores()
        self.reviewPart.update_views()
        self.reviewPart.update_result()
        self.reviewPart.go(1)

    def onLearnCorrections(self, checked: bool = False) -> None:
        """The corrected slices count as truth; the others are predicted anew."""
        assert self.logic is not None
        try:
            self.times.begin("")
            self.logic.controller.correct(self.settings())
        except OFLSAM2Error as error:
            self.runPart.say(str(error))
            return
        self.followRun()

    def onAddToSupport(self, checked: bool = False) -> None:
        """The reviewed result teaches from now on: it becomes a support case, and the learned task
        grows by it. The next patient is to be picked."""
        assert self.logic is not None
        chosen, controller = self._parameterNode, self.logic.controller
        node = chosen.segmentation
        volume = volume_segmented(node)
        if volume is None:
            self.runPart.say(
                _("The volume of '{name}' is not in the scene any more.").format(
                    name=node.GetName()
                )
            )
            return
        pair = SupportPair(volume, node, self.furtherPart.of(volume))
        name = volume.GetName()
        try:
            if controller.learned is not None:
                controller.add_case(
                    pair,
                    self.settings(),
                    lambda: self.onTaskGrown(_("The learned task has grown by '{name}'."), name),
                    self.runPart.say,
                )
        except OFLSAM2Error as error:
            self.runPart.say(str(error))
            return
        chosen.segmentation = chosen.confidence = chosen.target = None
        self.supportPart.add(pair)
        self.runPart.say(
            _("'{name}' is a support case now. Pick the next volume to segment.").format(name=name)
        )

    def onTaskGrown(self, message: str, name: str) -> None:
        self.taskPart.show_learned()
        self.runPart.say(message.format(name=name))

    def onSettled(self, status: Status) -> None:
        """The run is over, and nothing of it is left to do."""
        self.modelPart.set_running(False)
        if self._parameterNode is None:
            return
        self.reviewPart.update_scores()
        self.reviewPart.update_views()
        self.reviewPart.update_result()
        self.reviewPart.look_for_corrections(again=True)
        self.taskPart.show_learned()
        self.showStatus()
        if status.needs:
            self.setupPart.prepare(self.backbone(), self.onSegmentButton, status.needs)

    def onUndoButton(self, checked: bool = False) -> None:
        assert self.logic is not None
        self.logic.controller.undo()
        self.reviewPart.update_scores()
        self.reviewPart.update_result()
        self.reviewPart.look_for_corrections(again=True)
        self.taskPart.show_learned()
        self.showStatus()


class OFLSAM2SlicerLogic(ScriptedLoadableModuleLogic):
    """What the panel does, for the Python console and other modules."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.controller = Controller(shared_link())
        self.controller.wake = self._wake
        self.onTick: Callable[[], None] | None = None  # while there is something to follow
        self.onSettled: list[Callable[[Status], None]] = []  # once, when the run is over
        self._parameters: Any = None
        self._timer: Any = None

    def getParameterNode(self) -> Any:
        """The scene's parameters: the same object as long as the scene is the same. (Each further
        wrapper would observe the node for ever, in Slicer 5.10.)"""
        node = super().getParameterNode()
        if self._parameters is None or self._parameters.parameterNode is not node:
            wrap: Any = OFLSAM2SlicerParameterNode  # the decorator gives it its constructor
            self._parameters = wrap(node)
        return self._parameters

    def readParametersAgain(self) -> None:
        """A scene that is read brings the parameters before the nodes that they name; Slicer's
        wrapper remembers that these were missing, until the parameter node is modified."""
        if self._parameters is not None:
            self._parameters.parameterNode.Modified()

    def forgetParameterNode(self) -> None:
        """The scene is being closed: its node loses its values, the next scene's are read anew."""
        self._parameters = None

    def segment(
        self,
        targetNode: Any,
        supportPairs: Sequence[tuple[Any, ...]] = (),
        outputSegmentation: Any = None,
        *,
        furtherVolumes: Sequence[Any] = (),
        learnedTask: Learned | str | Path | None = None,
        backbone: str = "litemedsam",
        device: str = "auto",
        method: str = DEFAULT,
        options: dict[str, Any] | None = None,
        allowMissing: bool = False,
        withConfidence: bool = True,
        workerCommand: str = "",
        wait: bool = True,
        onStatus: Callable[[Status], None] | None = None,
        onDone: Callable[[Status], None] | None = None,
    ) -> Any:
        """Segment a volume (or a sequence of volumes) as support cases show it.

        :param targetNode: volume or sequence node.
        :param supportPairs: (volume node, segmentation or labelmap node) of each support case;
            up to two volume nodes more where several co-registered volumes are one case.
        :param furtherVolumes: volume nodes that are co-registered with the target, as many as each
            support case has, in the same order.
        :param outputSegmentation: segmentation node; one is made where None.
        :param learnedTask: used instead of support cases: what `learn` returned, or a file.
        :param method: its name, one of `OFLSAM2Core.methods.names()`.
        :param options: of the method, by name, such as {"preset": "fast", "training_steps": 400}.
        :param workerCommand: another Python, or a command such as "ssh gpu-host oflsam2 worker".
        :param wait: True returns when the segmentation is complete, and raises RuntimeError where
            it failed; False returns at once, and the segmentation fills while Slicer goes on.
        :param onStatus: called with each `Status` (stage, done, total, slices_done, ...).
        :param onDone: called with the last `Status`.
        :return: the segmentation node.
        """
        self.useWorker(workerCommand)
        if isinstance(learnedTask, (str, Path)):
            learnedTask = self.loadTask(learnedTask)
        settings = RunSettings(
            backbone=backbone,
            device=device,
            method=method,
            options=checked_options(options or {}, method),
            allow_missing=allowMissing,
        )
        segmentation = self.controller.segment(
            targetNode,
            settings,
            pairs=supportCases(supportPairs),
            further=furtherVolumes,
            learned=learnedTask,
            segmentation=outputSegmentation,
            with_confidence=withConfidence,
        )
        self._follow(wait, onStatus, onDone)
        return segmentation

    def learn(
        self,
        supportPairs: Sequence[tuple[Any, ...]],
        *,
        backbone: str = "litemedsam",
        device: str = "auto",
        method: str = DEFAULT,
        options: dict[str, Any] | None = None,
        allowMissing: bool = False,
        workerCommand: str = "",
    ) -> Learned:
        """Learn from support cases, and wait for it. `saveTask` writes what was learned."""
        self.useWorker(workerCommand)
        settings = RunSettings(
            backbone=backbone,
            device=device,
            method=method,
            options=checked_options(options or {}, method),
            allow_missing=allowMissing,
        )
        self.controller.learn(settings, supportCases(supportPairs))
        self._follow(True, None, None)
        assert self.controller.learned is not None
        return self.controller.learned

    def saveTask(self, path: str | Path) -> Path:
        """Write what was learned last; returns the path, with its extension .oflsam2."""
        return self.controller.save_task(path)

    def loadTask(self, path: str | Path) -> Learned:
        """Read a learned task, and wait for it."""
        found: list[Learned] = []
        failures: list[str] = []
        self.controller.load_task(path, found.append, failures.append)
        while not found and not failures:
            self._step()
        if failures:
            raise RuntimeError(failures[0])
        return found[0]

    def cancel(self) -> None:
        """Stop the run; slices that have arrived are kept."""
        self.controller.cancel()

    def useWorker(self, command: str) -> None:
        """Which Python or command the worker is ("": Slicer's own Python)."""
        link = shared_link()
        if not link.is_busy:
            link.use(worker_command(command, slicer.util.startupEnvironment))

    def shutDown(self) -> None:
        """End the worker; nothing is left behind."""
        if self._timer is not None:
            self._timer.stop()
        self.controller.shut_down()

    def _wake(self) -> None:
        """Look for the worker's answers from a timer, until there is nothing to wait for."""
        import qt

        if self._timer is None:
            self._timer = qt.QTimer()
            self._timer.setInterval(POLL_MS)
            self._timer.connect("timeout()", self._onTimeout)
        self._timer.start()

    def _onTimeout(self) -> None:
        self.controller.poll()
        if self.onTick is not None:
            self.onTick()
        if self.controller.presenter.is_settled:
            settled, self.onSettled = self.onSettled, []
            for callback in settled:
                callback(self.controller.status)
        if self.controller.is_idle:
            self._timer.stop()

    def _follow(
        self,
        wait: bool,
        onStatus: Callable[[Status], None] | None,
        onDone: Callable[[Status], None] | None,
    ) -> None:
        if onStatus is not None:
            self.controller.listeners.append(onStatus)

        def finish(status: Status) -> None:
            if onStatus is not None:
                self.controller.listeners.remove(onStatus)
            if onDone is not None:
                onDone(status)

        if not wait:
            self.onSettled.append(finish)
            return
        while not self.controller.presenter.is_settled:
            self._step()
        status = self.controller.status
        finish(status)
        if status.state is not State.DONE:
            raise RuntimeError(status.text)

    def _step(self) -> None:
        self.controller.poll()
        slicer.app.processEvents()
        time.sleep(0.01)


def supportCases(supportPairs: Sequence[tuple[Any, ...]]) -> list[SupportPair]:
    """Support pairs: (volume node, labels node) and up to two further volume nodes each."""
    return [
        SupportPair(volume, labels, tuple(further)) for volume, labels, *further in supportPairs
    ]


class OFLSAM2SlicerTest(ScriptedLoadableModuleTest):
    """The self test: the scene side always, the worker where its packages are installed."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        from OFLSAM2SlicerLib import self_test

        for name in self_test.TESTS:
            self.setUp()
            self.delayDisplay(name.replace("_", " "))
            getattr(self_test, name)(self)
        logging.info("Self test of OFL-SAM2 passed on Python %s", sys.version.split()[0])
