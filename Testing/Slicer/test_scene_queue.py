"""The volumes of the scene as a queue: files that `oflsam2 cohort` works through, whatever becomes
of Slicer."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest
import vtk
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.cohort_review import Cohort, can_go_on, go_on, last_words, start_cohort
from OFLSAM2SlicerLib.confidence import new_confidence_node, show_as_confidence
from OFLSAM2SlicerLib.scene_queue import volumes_to_queue, write_queue
from panels import synthetic_command
from scenes import OBLIQUE, add_segmentation, add_volume, ball

from OFLSAM2Core.app.steps import run_steps
from OFLSAM2Core.cohort.inputs import find_cases
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.io.reading import read_volume
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.worker.client import worker_environment

SHAPE = (10, 20, 16)
LIVER = ball(SHAPE, (5, 10, 8), 4)
IMAGE = (np.random.default_rng(0).normal(0, 5, SHAPE) + 100 * LIVER).astype(np.int16)
AFFINE = np.diag([-1.0, -1.0, 1.5, 1.0])


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A learned task, which takes a second: its method needs no backbone."""
    case = SupportCase(
        Volume(IMAGE, AFFINE), LIVER.astype(np.uint8), (Structure("liver", 1, (0.8, 0.3, 0.2)),)
    )
    learned = FewShotSession(method="atlas", device="cpu").learn([case])
    return learned.save(tmp_path_factory.mktemp("task") / "liver.oflsam2")


def queued(scene, folder, others=()):
    return run_steps(write_queue(volumes_to_queue(scene, others), folder))


def test_volumes_are_written_where_they_lie_in_the_world_and_listed_by_their_names(scene, tmp_path):
    add_volume(scene, IMAGE, "MR 1", OBLIQUE)
    moved = add_volume(scene, IMAGE + 1, "MR 2", OBLIQUE)
    shift = np.eye(4)
    shift[:3, 3] = 10, -20, 30
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    transform.SetMatrixTransformToParent(geometry.array_to_matrix(shift))
    moved.SetAndObserveTransformNodeID(transform.GetID())
    cases = find_cases([str(queued(scene, tmp_path / "queue"))]).cases
    assert [case.name for case in cases] == ["MR_1", "MR_2"]
    first, second = (read_volume(case.source) for case in cases)
    assert np.array_equal(first.array, IMAGE) and np.allclose(first.affine, OBLIQUE)
    assert np.array_equal(second.array, IMAGE + 1) and np.allclose(second.affine, shift @ OBLIQUE)


def test_support_confidence_labelmaps_and_colour_images_are_not_queued(scene):
    support, target = add_volume(scene, IMAGE, "support"), add_volume(scene, IMAGE, "target")
    confidence = new_confidence_node(target)
    confidence.SetAndObserveImageData(vtk.vtkImageData())
    show_as_confidence(confidence)
    add_volume(scene, LIVER.astype(np.uint8), "labels", class_name="vtkMRMLLabelMapVolumeNode")
    colours = np.zeros((*SHAPE, 3), np.uint8)
    add_volume(scene, colours, "colours", class_name="vtkMRMLVectorVolumeNode")
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "without voxels")
    assert volumes_to_queue(scene, [support]) == [target]


def test_a_volume_is_queued_once_and_another_of_its_name_beside_it(scene, tmp_path):
    first = add_volume(scene, IMAGE, "MR", OBLIQUE)
    queued(scene, tmp_path)
    scene.RemoveNode(first)
    add_volume(scene, IMAGE, "MR", OBLIQUE)
    add_volume(scene, IMAGE + 7, "MR", OBLIQUE)
    cases = find_cases([str(queued(scene, tmp_path))]).cases
    assert [case.name for case in cases] == ["MR", "MR-2"]
    assert np.array_equal(read_volume(cases[1].source).array, IMAGE + 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("MR-2.nrrd", "MR.nrrd", "cases.json")
    ]


def test_a_volume_goes_on_belonging_to_its_own_file(scene, tmp_path):
    node = add_volume(scene, IMAGE, "MR")
    queued(scene, tmp_path)
    assert node.GetStorageNode() is None


@pytest.mark.slow
def test_the_queue_is_worked_through_and_gone_on_with_after_it_was_stopped(scene, task, tmp_path):
    for number in range(2):
        add_volume(scene, np.roll(IMAGE, number, axis=1), f"MR {number}", AFFINE)
    path, out = queued(scene, tmp_path / "queue"), tmp_path / "out"
    scene.Clear(True)
    python, environment = [sys.executable], worker_environment(os.environ)
    stopped = start_cohort(python, environment, [str(path)], task, out)
    while not (out / "manifest.jsonl").is_file() or not Cohort(out).cases:
        assert stopped.poll() is None or stopped.returncode == 0, last_words(out)
        time.sleep(0.05)
    stopped.kill()  # the computer was shut down
    stopped.wait()
    assert can_go_on(Cohort(out))
    assert go_on(python, environment, out).wait(300) == 0, last_words(out)
    cohort = Cohort(out)
    assert [case.is_segmented for case in cohort.cases] == [True, True]
    assert not can_go_on(cohort)


def test_the_panel_queues_the_scene_and_says_why_a_cohort_stopped(open_panel, scene, tmp_path):
    support = add_volume(scene, IMAGE, "case", AFFINE)
    labels = add_segmentation(scene, support, {"liver": LIVER})
    target = add_volume(scene, IMAGE, "target", AFFINE)
    panel = open_panel(synthetic_command())
    panel.ui.startSceneCohortButton.click()
    assert "Learn or load a task first" in panel.ui.messageLabel.text
    panel.choose(target, [(support, labels)])
    panel.run()
    panel.widget.cohortPart.start_scene(tmp_path)
    panel.wait(lambda: panel.controller.is_idle)
    listed = find_cases([str(tmp_path / "scene-volumes" / "cases.json")]).cases
    assert [case.name for case in listed] == ["target"]

    def is_listed():
        panel.widget.cohortPart.refresh()
        return "has stopped" in panel.ui.messageLabel.text

    panel.wait(is_listed, timeout=120)  # what the synthetic worker learned is no task of the core's
    assert "is not a readable learned task" in panel.ui.messageLabel.text
