"""The self test of the module, run inside Slicer (Reload and Test, or ctest).

The scene side is tested always. A whole run needs the worker's packages and the model's weights;
where they are not installed, the worker has to say so in words.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import slicer

from OFLSAM2Core.app.steps import run_steps
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2SlicerLib import sample_data
from OFLSAM2SlicerLib.scene_run import SceneRun

SHAPE = (12, 40, 48)


def a_panel_opens_and_says_what_is_missing(test: Any) -> None:
    widget = slicer.modules.oflsam2slicer.widgetRepresentation().self()
    test.assertFalse(widget.ui.segmentButton.enabled)
    test.assertEqual(widget.ui.messageLabel.text, "Pick the volume to segment.")


def slices_arrive_voxel_for_voxel(test: Any) -> None:
    volume = _volume("target", np.zeros(SHAPE, np.int16))
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
    for name, value in (("one", 1), ("two", 2)):
        segment_id = output.GetSegmentation().GetSegmentIdBySegmentName(name)
        found = slicer.util.arrayFromSegmentBinaryLabelmap(output, segment_id, volume)
        test.assertTrue(np.array_equal(found > 0, labels == value))
    test.assertTrue((slicer.util.arrayFromVolume(confidence) == 200).all())


def sample_data_are_segmented_by_the_worker(test: Any) -> None:
    """From the sample data to segments, with the smallest effort; minutes on a CPU."""
    from OFLSAM2Slicer import OFLSAM2SlicerLogic

    logic = OFLSAM2SlicerLogic()
    about: list[dict[str, Any]] = []
    failures: list[str] = []
    logic.controller.about_worker(about.append, failures.append)
    end = time.monotonic() + 120
    while not about and not failures and time.monotonic() < end:
        logic.controller.poll()
        time.sleep(0.05)
    test.assertTrue(about, f"The worker does not answer: {failures}")
    ready = [one["name"] for one in about[0]["backbones"] if one["state"] == "ready"]
    if about[0]["missing"] or "litemedsam" not in ready:
        logging.warning("No run is tested: packages or weights of the worker are not installed.")
        logic.shutDown()
        return
    *support, target = sample_data.load_hippocampus()
    pairs = [
        (volume, slicer.util.getNode(f"{volume.GetName()} segmentation")) for volume in support
    ]
    options = {"preset": "fast", "epochs": 1}
    segmentation = logic.segment(target, pairs[:2], options=options)
    names = [
        segmentation.GetSegmentation().GetNthSegment(position).GetName() for position in range(2)
    ]
    test.assertEqual(names, [one.name for one in sample_data.sample_structures()])
    array = slicer.util.arrayFromSegmentBinaryLabelmap(
        segmentation, segmentation.GetSegmentation().GetNthSegmentID(0), target
    )
    test.assertGreater(int(array.sum()), 0)
    logic.shutDown()


def _volume(name: str, array: Any) -> Any:
    return slicer.util.addVolumeFromArray(array, name=name)


TESTS = (
    "a_panel_opens_and_says_what_is_missing",
    "slices_arrive_voxel_for_voxel",
    "sample_data_are_segmented_by_the_worker",
)
