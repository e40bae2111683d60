"""Pictures of what comes after a run: corrections, a cohort, the Segment Editor's effect."""

from __future__ import annotations

import tempfile
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from OFLSAM2SlicerLib import geometry, sample_data
from OFLSAM2SlicerLib.effect_registration import register_effect
from OFLSAM2SlicerLib.review import jump_to
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP
from panels import Panel, application
from PySide6 import QtWidgets
from scenes import add_segmentation, add_volume, load_segmentation, load_volume, segment_mask
from scipy import ndimage

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.io.reading import read_volume

PARTS = ("inputs", "further", "model", "segment", "review", "task", "cohort", "advanced")
CORRECTED = 3
"""Slices that are corrected: doubtful ones, apart from each other."""

Photograph = Callable[[Path], None]


def fold_all_but(panel: Panel, *names: str) -> None:
    for name in PARTS:
        getattr(panel.ui, f"{name}CollapsibleButton").collapsed = name not in names


def more_volumes(panel: Panel, target: Any, pairs: Sequence[tuple[Any, Any]], path: Path) -> None:
    """The panel with a second volume of each patient, here a smoothed copy; then without again."""

    def smoothed(volume: Any) -> Any:
        array = ndimage.gaussian_filter(slicer.util.arrayFromVolume(volume), 1)
        affine = geometry.volume_to_local(volume)
        return add_volume(volume.GetScene(), array, f"{volume.GetName()} smoothed", affine)

    ui = panel.ui
    made = [smoothed(volume) for volume in (target, *(volume for volume, _ in pairs))]
    ui.furtherCollapsibleButton.collapsed = False
    ui.targetSecondSelector.setCurrentNode(made[0])
    for row, volume in enumerate(made[1:]):
        panel.click_support(row)
        ui.supportSecondSelector.setCurrentNode(volume)
    panel.picture(path)
    for volume in made:
        volume.GetScene().RemoveNode(volume)
    ui.furtherCollapsibleButton.collapsed = True


def after_corrections(panel: Panel, target: Any, photograph: Photograph, output: Path) -> None:
    """Three doubtful slices are corrected by the reference; the method learns from them."""
    case = sample_data.TARGET
    labels = sample_data.sample_folder() / f"{case}_label.nii.gz"  # none that the module loads
    truth = np.asarray(read_volume(labels).array)
    node = panel.parameters.segmentation
    before = _agreement(node, target, truth)
    chosen: list[Any] = []
    for scored in panel.controller.run.scores.most_doubtful(20):
        if all(abs(scored.index - one.index) > 3 for one in chosen):
            chosen.append(scored)
    chosen = chosen[:CORRECTED]
    for scored in chosen:
        _draw(node, truth, scored.axis, scored.index)
    panel.wait(lambda: f"{len(chosen)} slices corrected" in panel.ui.correctedLabel.text)
    fold_all_but(panel, "segment", "review")
    panel.picture(output / "panel-corrected.png")
    panel.ui.learnCorrectionsButton.click()
    panel.wait(lambda: panel.controller.is_idle, 3600)
    panel.wait(lambda: panel.ui.correctedLabel.text == "", 60)  # nothing is left to learn from
    print(f"Corrected slices: {sorted(one.index for one in chosen)}. {panel.status.text}")
    print(f"Dice before {before}, after {_agreement(node, target, truth)}")
    panel.picture(output / "panel-after-corrections.png")
    jump_to(target, chosen[0])
    photograph(output / "slice-views-after-corrections.png")


def cohort(panel: Panel, output: Path) -> None:
    """The volumes of the scene but the support are segmented by `oflsam2 cohort`, and looked at."""
    part = panel.widget.cohortPart
    slicer.util.loadVolume, slicer.util.loadSegmentation = load_volume, load_segmentation
    fold_all_but(panel, "cohort")
    with tempfile.TemporaryDirectory() as folder:
        part.start_scene(Path(folder))
        panel.wait(lambda: "2 of 2 cases" in _refreshed(panel), 3600)
        panel.ui.nextCaseButton.click()
        panel.wait(lambda: panel.controller.is_idle, 600)
        panel.ui.acceptCaseButton.click()
        panel.wait(lambda: panel.controller.is_idle, 600)
        fold_all_but(panel, "review", "cohort")
        panel.picture(output / "panel-cohort.png")


def effect(panel: Panel, target: Any, photograph: Photograph, output: Path) -> None:
    """One structure predicted in all slices, in the Segment Editor."""
    module = slicer.modules.oflsam2slicer
    module.widgetRepresentation = lambda: types.SimpleNamespace(self=lambda: panel.widget)
    structure = sample_data.sample_structures()[0]
    empty = np.zeros(slicer.util.arrayFromVolume(target).shape, bool)
    for other in _segmentations():
        other.GetDisplayNode().SetVisibility(False)
    edited = add_segmentation(
        slicer.mrmlScene, target, {structure.name: empty}, "edited", [structure.color]
    )
    edited.GetDisplayNode().SetOpacity2DFill(0.35)
    segment_id = edited.GetSegmentation().GetNthSegmentID(0)
    added = register_effect()
    added.edit(edited, target, segment_id)
    added.self().allButton.click()
    panel.wait(lambda: panel.controller.is_idle, 3600)
    frame = QtWidgets.QGroupBox("OFL-SAM2")
    layout = QtWidgets.QVBoxLayout(frame)
    for widget in added.options:
        layout.addWidget(widget)
    frame.resize(420, layout.sizeHint().height())
    frame.show()
    application.processEvents()
    frame.grab().save(str(output / "effect.png"))
    photograph(output / "slice-views-effect.png")
    slicer.mrmlScene.RemoveNode(edited)
    del module.widgetRepresentation


def _refreshed(panel: Panel) -> str:
    panel.widget.cohortPart.refresh()
    if "has stopped" in panel.ui.messageLabel.text:
        raise SystemExit(panel.ui.messageLabel.text)
    return str(panel.ui.cohortLabel.text)


def _agreement(node: Any, target: Any, truth: Any) -> list[float]:
    return [
        round(float(dice(segment_mask(node, one.name, target), truth == one.label)), 3)
        for one in sample_data.sample_structures()
    ]


def _draw(node: Any, truth: Any, axis: int, index: int) -> None:
    """The reference in one slice of a segmentation, as a person would draw it."""
    place = (slice(None),) * axis + (index,)
    segmentation = node.GetSegmentation()
    known = [
        (segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(one.name)), one.label)
        for one in sample_data.sample_structures()
    ]
    planes = [
        geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))[place]
        for segment, _label in known
    ]
    for plane in planes:
        plane[...] = 0
    for plane, (segment, label) in zip(planes, known, strict=True):
        plane[truth[place] == label] = segment.GetLabelValue()
        segment.Modified()


def _segmentations() -> list[Any]:
    scene = slicer.mrmlScene
    count = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    return [scene.GetNthNodeByClass(number, "vtkMRMLSegmentationNode") for number in range(count)]
