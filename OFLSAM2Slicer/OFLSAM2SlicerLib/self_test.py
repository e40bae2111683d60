"""The self test of the module, run inside Slicer (Reload and Test, or ctest).

The scene side is tested always. A whole run needs the worker's packages and the model's weights;
where they are not installed, the worker has to say so in words.

With the environment variable OFLSAM2_SCREENSHOTS, the main window is photographed into that folder.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from OFLSAM2Core.app.states import State
from OFLSAM2Core.app.steps import run_steps
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2SlicerLib import sample_data
from OFLSAM2SlicerLib.scene_run import SceneRun

SHAPE = (12, 40, 48)
RUN_MINUTES = 45


def a_panel_opens_and_says_what_is_missing(test: Any) -> None:
    widget = _panel()
    test.assertFalse(widget.ui.segmentButton.enabled)
    test.assertEqual(widget.ui.messageLabel.text, "Pick the volume to segment.")
    test.assertEqual(widget.ui.presetComboBox.currentText, "balanced")
    test.assertGreater(widget.ui.methodComboBox.count, 0)
    _photograph("panel")


def sample_data_are_registered_and_loaded(test: Any) -> None:
    (source,) = slicer.modules.sampleDataSources[sample_data.CATEGORY]
    test.assertEqual(source.sampleName, sample_data.SAMPLE)
    test.assertTrue(Path(source.thumbnailFileName).is_file())
    nodes = source.customDownloader(source)
    names = [node.GetName() for node in nodes]
    test.assertEqual(names, [*sample_data.SUPPORT, sample_data.TARGET])
    _photograph("sample-data")


def slices_arrive_voxel_for_voxel(test: Any) -> None:
    volume, output, labels = _small_result()
    for name, value in (("one", 1), ("two", 2)):
        test.assertTrue(np.array_equal(_mask(output, name, volume), labels == value))


def a_scene_comes_back_with_its_result_and_its_choices(test: Any) -> None:
    volume, output, labels = _small_result()
    parameters = _panel().logic.getParameterNode()
    parameters.target = volume
    parameters.segmentation = output
    parameters.preset = "accurate"
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scene.mrb")
        test.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(path)
        parameters = _panel().logic.getParameterNode()
        test.assertEqual(parameters.target.GetName(), "target")
        test.assertEqual(parameters.preset, "accurate")
        for name, value in (("one", 1), ("two", 2)):
            found = _mask(parameters.segmentation, name, parameters.target)
            test.assertTrue(np.array_equal(found, labels == value))
        slicer.mrmlScene.Clear(0)


def sample_data_are_segmented_from_the_panel(test: Any) -> None:
    """From the sample data to segments, as a user does it, with the preset "fast"."""
    widget = _panel()
    about: list[dict[str, Any]] = []
    failures: list[str] = []
    widget.logic.controller.about_worker(about.append, failures.append)
    _wait(lambda: bool(about or failures), 120)
    test.assertTrue(about, f"The worker does not answer: {failures}")
    ready = [one["name"] for one in about[0]["backbones"] if one["state"] == "ready"]
    if about[0]["missing"] or "litemedsam" not in ready:
        logging.warning("No run is tested: packages or weights of the worker are not installed.")
        return
    *_support, target = sample_data.load_hippocampus()
    widget.ui.targetSelector.setCurrentNode(target)
    widget.ui.addAllButton.click()
    widget.ui.presetComboBox.setCurrentText("fast")
    test.assertEqual(widget.ui.supportTable.rowCount, len(sample_data.SUPPORT))
    widget.ui.segmentButton.click()
    controller = widget.logic.controller
    _wait(lambda: controller.status.slices_done > 10 or controller.is_idle, 60 * RUN_MINUTES)
    _photograph("running")
    _wait(lambda: controller.is_idle, 60 * RUN_MINUTES)
    test.assertIs(controller.status.state, State.DONE, controller.status.text)
    _photograph("done")
    output = widget.logic.getParameterNode().segmentation
    path = sample_data.sample_folder() / f"{sample_data.TARGET}_label.nii.gz"
    labelmap = slicer.util.loadLabelVolume(str(path))
    truth = slicer.util.arrayFromVolume(labelmap)
    for structure in sample_data.sample_structures():
        found, wanted = _mask(output, structure.name, target), truth == structure.label
        dice = 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum())
        logging.info("Dice of the %s: %.3f", structure.name, dice)
        test.assertGreater(dice, 0.5)
    widget.ui.learnedTaskCheckBox.checked = False


def _panel() -> Any:
    """The module's panel; the module is opened where there is a main window."""
    if slicer.util.mainWindow() is not None:
        slicer.util.selectModule("OFLSAM2Slicer")
    widget = slicer.modules.oflsam2slicer.widgetRepresentation().self()
    widget.initializeParameterNode()
    return widget


def _small_result() -> tuple[Any, Any, Any]:
    """A volume, what a run on it made of two structures, and the labels that were sent."""
    volume = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), name="target")
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    confidence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "confidence")
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 10:30, 12:40] = 1
    labels[5:7, 15:20, 20:30] = 2
    run = SceneRun(volume, output, confidence)
    run_steps(run.begin(0, [Structure("one", 1), Structure("two", 2)]))
    for index in range(SHAPE[0]):
        plane = np.full(SHAPE[1:], 200, np.uint8)
        run.add(SliceResult(index, 0, labels[index], plane, {"one": 0.9}))
    run.flush()
    run_steps(run.end(0))
    run_steps(run.finish(complete=True))
    return volume, output, labels


def _mask(segmentation: Any, name: str, volume: Any) -> Any:
    segment_id = segmentation.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume) > 0


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Let the application go on, as it does while a user looks on."""
    end = time.monotonic() + seconds
    while not condition():
        slicer.app.processEvents()
        time.sleep(0.02)
        if time.monotonic() > end:
            raise TimeoutError(f"Nothing came of it within {seconds:.0f} s.")


def _photograph(name: str) -> None:
    folder, window = os.environ.get("OFLSAM2_SCREENSHOTS"), slicer.util.mainWindow()
    if folder and window is not None:
        for _turn in range(5):
            slicer.app.processEvents()
        window.grab().save(str(Path(folder) / f"{name}.png"))


TESTS = (
    "a_panel_opens_and_says_what_is_missing",
    "sample_data_are_registered_and_loaded",
    "slices_arrive_voxel_for_voxel",
    "a_scene_comes_back_with_its_result_and_its_choices",
    "sample_data_are_segmented_from_the_panel",
)
