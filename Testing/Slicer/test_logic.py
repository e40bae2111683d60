"""The logic as it is called from the Python console and by other modules."""

from __future__ import annotations

import time

import numpy as np
import pytest
import slicer
from panels import application, module, synthetic_command
from scenes import OBLIQUE, add_segmentation, add_volume, ball, segment_mask

from OFLSAM2Core.app.states import State
from OFLSAM2Core.errors import InputError

SHAPE = (12, 20, 16)
MASK = ball(SHAPE, (6, 10, 8), 5)
IMAGE = np.where(MASK, 100, 0).astype(np.int16)


@pytest.fixture
def logic(scene):
    logic = module.OFLSAM2SlicerLogic()
    yield logic
    logic.shutDown()


@pytest.fixture
def support(scene):
    volume = add_volume(scene, IMAGE, "case", OBLIQUE)
    return [(volume, add_segmentation(scene, volume, {"liver": MASK}))]


@pytest.fixture
def target(scene):
    return add_volume(scene, np.roll(IMAGE, 2, axis=1), "target", OBLIQUE)


def test_the_blocking_form_returns_a_complete_segmentation(logic, support, target):
    seen = []
    segmentation = logic.segment(
        target, support, workerCommand=synthetic_command(), onStatus=seen.append
    )
    found = segment_mask(segmentation, "liver", target)
    assert np.array_equal(found, np.roll(MASK, 2, axis=1))
    states = list(dict.fromkeys(status.state for status in seen))
    assert states == [State.CHECKING, State.LEARNING, State.SEGMENTING, State.DONE]


def test_the_callback_form_returns_at_once_and_calls_back_when_done(logic, support, target):
    done = []
    segmentation = logic.segment(
        target, support, workerCommand=synthetic_command(), wait=False, onDone=done.append
    )
    assert done == []
    end = time.monotonic() + 60
    while not done and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.005)
    assert [status.state for status in done] == [State.DONE]
    assert segment_mask(segmentation, "liver", target).any()


def test_a_failed_run_raises_with_the_reason(logic, support, target):
    command = synthetic_command("--mode", "die")
    with pytest.raises(RuntimeError, match="worker"):
        logic.segment(target, support, workerCommand=command)


def test_wrong_options_are_refused_before_anything_starts(logic, support, target):
    with pytest.raises(InputError, match="no option 'gama'"):
        logic.segment(target, support, options={"gama": 0.5}, workerCommand=synthetic_command())
    assert not logic.controller.link.is_alive


def test_a_segmentation_cannot_be_support_and_output_at_once(logic, support, target, scene):
    before = scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="support case and the output at once"):
        logic.segment(target, support, support[0][1], workerCommand=synthetic_command())
    assert scene.GetNumberOfNodes() == before


def test_a_task_is_learned_once_saved_and_used_for_other_volumes(logic, support, target, tmp_path):
    logic.learn(support, workerCommand=synthetic_command())
    path = logic.saveTask(tmp_path / "liver.oflsam2")
    slicer.mrmlScene.RemoveNode(support[0][0])
    segmentation = logic.segment(target, learnedTask=path, workerCommand=synthetic_command())
    assert np.array_equal(segment_mask(segmentation, "liver", target), np.roll(MASK, 2, axis=1))


def test_two_cases_of_one_name_are_distinguished(logic, support, target, scene):
    again = add_volume(scene, IMAGE, "case", OBLIQUE)
    pairs = [*support, (again, add_segmentation(scene, again, {"liver": MASK}, "again"))]
    run_names = []
    original = logic.controller.presenter._learn

    def spy():
        run_names.extend(case.name for case in logic.controller.presenter._support)
        original()

    logic.controller.presenter._learn = spy
    logic.segment(target, pairs, workerCommand=synthetic_command())
    assert run_names == ["case", "case (2)"]


def test_a_worker_that_cannot_use_further_volumes_says_so_in_the_console(logic, support, target):
    """From nodes to the session, through the real worker."""
    (volume, labels), *_ = support
    with pytest.raises(RuntimeError, match="'atlas' cannot use"):
        logic.segment(target, [(volume, labels, target)], furtherVolumes=[volume], method="atlas")


def test_a_sequence_with_further_volumes_is_refused(logic, support, target, scene):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart")
    sequence.SetDataNodeAtValue(target, "0")
    with pytest.raises(InputError, match="'heart' is a sequence"):
        logic.segment(sequence, support, furtherVolumes=[target])
