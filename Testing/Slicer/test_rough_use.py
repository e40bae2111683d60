"""A user who does things in another order than the tutorial: what was chosen, drawn and learned
stays what it was, or the panel says why not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import slicer
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.segmentation_writer import is_reviewed
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP, tag_of
from panels import MODIFIERS, synthetic_command
from PySide6 import QtCore, QtTest
from scenes import (
    OBLIQUE,
    SHAPE,
    add_segmentation,
    add_volume,
    case_arrays,
    load_segmentation,
    load_volume,
    segment_mask,
)

from OFLSAM2Core.app.states import State
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.inputs import find_cases
from OFLSAM2Core.cohort.manifest import Manifest
from OFLSAM2Core.data.image_identity import IDENTITY_TAG
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.io.reading import write_confidence, write_segmentation

IMAGE, LIVER, LESION = case_arrays(4)


def start(panel, slices=3):
    panel.ui.segmentButton.click()
    panel.wait(lambda: panel.status.slices_done >= slices or not panel.status.is_running)


def erase(panel, name, index, node=None):
    """What a user does in the Segment Editor: a structure is none in one slice."""
    node = node or panel.parameters.segmentation
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(name))
    plane = geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))[index]
    plane[plane == segment.GetLabelValue()] = 0
    segment.Modified()


def correct(panel, name, index):
    erase(panel, name, index)
    panel.wait(lambda: panel.ui.correctedLabel.text != "" and panel.controller.is_idle)
    panel.ui.learnCorrectionsButton.click()
    panel.wait(lambda: panel.controller.is_idle)


def confidence_of(panel):
    return slicer.util.arrayFromVolume(panel.parameters.confidence)


def image_of(panel):
    """What the first segment of the result says of its image; None where it does not."""
    segment = panel.parameters.segmentation.GetSegmentation().GetNthSegment(0)
    return tag_of(segment, IDENTITY_TAG)


# Keys that are held


@pytest.mark.parametrize("held", [QtCore.Qt.Key_Control, QtCore.Qt.Key_Shift])
def test_the_case_just_added_is_the_selected_one_also_while_a_key_is_held(
    quick, scene, pairs, held
):
    window = quick.widget.parent
    window.show()
    window.activateWindow()
    quick.wait(lambda: window.isActiveWindow)
    QtTest.QTest.keyPress(window, held, MODIFIERS[held])
    third = add_volume(scene, IMAGE, "case 3", OBLIQUE)
    quick.choose(quick.parameters.target, [(third, pairs[0][1])])
    QtTest.QTest.keyRelease(window, held)
    assert quick.widget.supportPart.selected.volume_node is third


# Nodes that go, and scenes that are closed


def test_a_result_whose_volume_was_deleted_is_no_support_case_of_another_volume(
    quick, scene, target
):
    quick.run()
    quick.ui.reviewedButton.click()
    scene.RemoveNode(target)
    other = add_volume(scene, IMAGE, "next patient", OBLIQUE)
    quick.ui.targetSelector.setCurrentNode(other)
    quick.ui.addToSupportButton.click()
    assert "is not in the scene any more" in quick.ui.messageLabel.text
    assert quick.ui.supportTable.rowCount == 2


def test_a_segment_that_is_deleted_in_mid_run_stays_deleted_and_the_others_are_filled(slow, target):
    start(slow)
    segmentation = slow.parameters.segmentation.GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetSegmentIdBySegmentName("lesion"))
    slow.wait(lambda: slow.controller.is_idle)
    assert slow.status.state is State.DONE
    assert segmentation.GetNumberOfSegments() == 1
    assert np.array_equal(segment_mask(slow.parameters.segmentation, "liver", target), LIVER)


def test_support_cases_that_are_deleted_in_mid_run_have_been_read_already(
    slow, scene, target, pairs
):
    start(slow)
    for node in pairs[0]:
        scene.RemoveNode(node)
    slow.wait(lambda: slow.controller.is_idle)
    assert slow.status.state is State.DONE
    assert slow.ui.supportTable.rowCount == 1
    assert np.array_equal(segment_mask(slow.parameters.segmentation, "liver", target), LIVER)


def test_another_volume_that_is_picked_in_mid_run_gets_nothing_of_the_run(slow, scene, target):
    other = add_volume(scene, np.roll(IMAGE, 3, 1), "next patient", OBLIQUE)
    start(slow)
    first = slow.parameters.segmentation
    slow.ui.targetSelector.setCurrentNode(other)
    slow.wait(lambda: slow.controller.is_idle)
    assert np.array_equal(segment_mask(first, "liver", target), LIVER)
    slow.run()
    assert slow.parameters.segmentation is not first
    found = segment_mask(slow.parameters.segmentation, "liver", other)
    assert np.array_equal(found, np.roll(LIVER, 3, 1))
    assert np.array_equal(segment_mask(first, "liver", target), LIVER)


def test_two_scenes_closed_in_mid_run_one_after_the_other_and_a_third_one_runs(slow, scene):
    for _ in range(2):
        start(slow)
        scene.Clear(False)
        slow.wait(lambda: slow.controller.is_idle)
        assert slow.status.state is State.IDLE
        support = add_volume(scene, IMAGE, "case", OBLIQUE)
        labels = add_segmentation(scene, support, {"liver": LIVER, "lesion": LESION}, "case seg")
        patient = add_volume(scene, IMAGE, "patient", OBLIQUE)
        slow.choose(patient, [(support, labels)])
    assert slow.run().state is State.DONE
    assert np.array_equal(segment_mask(slow.parameters.segmentation, "liver", patient), LIVER)


# Odd inputs


def test_a_support_case_without_a_voxel_is_named_and_leaves_nothing_behind(
    open_panel, scene, target
):
    volume = add_volume(scene, IMAGE, "case", OBLIQUE)
    labels = add_segmentation(scene, volume, {"liver": LIVER & False}, "case seg")
    panel = open_panel(synthetic_command())
    panel.choose(target, [(volume, labels)])
    before = scene.GetNumberOfNodes()
    assert panel.run().state is State.FAILED
    assert "'case seg' has no labelled voxel within 'case'" in panel.ui.messageLabel.text
    assert scene.GetNumberOfNodes() == before
    assert panel.parameters.segmentation is None


def test_a_segmentation_without_segments_and_a_volume_without_voxels_are_named(
    open_panel, scene, pairs
):
    panel = open_panel(synthetic_command())
    nothing = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    panel.choose(nothing, pairs)
    panel.ui.segmentButton.click()
    assert "Volume 'nothing' has no image data." in panel.ui.messageLabel.text
    assert not panel.status.is_running
    drawn = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "not drawn yet")
    panel.choose(pairs[0][0], [(pairs[1][0], drawn)])
    assert "'not drawn yet' has no structures" in panel.ui.messageLabel.text
    assert not panel.ui.segmentButton.enabled


def test_an_empty_segmentation_as_output_is_filled(quick, scene, target):
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    quick.ui.outputSelector.setCurrentNode(output)
    quick.run()
    assert quick.parameters.segmentation is output
    assert np.array_equal(segment_mask(output, "liver", target), LIVER)


@pytest.fixture
def moved(scene, target):
    """The target under a transform that turns and shifts it."""
    turn = np.eye(4)
    turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    turn[:3, 3] = 30, -20, 10
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turned")
    transform.SetMatrixTransformToParent(geometry.array_to_matrix(turn))
    target.SetAndObserveTransformNodeID(transform.GetID())
    return target


def test_a_volume_under_a_transform_gets_a_result_under_the_same_one(quick, moved):
    quick.run()
    output = quick.parameters.segmentation
    assert output.GetTransformNodeID() == moved.GetTransformNodeID()
    assert quick.parameters.confidence.GetTransformNodeID() == moved.GetTransformNodeID()
    assert np.array_equal(segment_mask(output, "liver", moved), LIVER)
    correct(quick, "lesion", 10)
    assert quick.status.state is State.DONE
    assert not segment_mask(output, "lesion", moved).any()


def test_a_volume_that_was_moved_since_its_result_is_refused_and_its_result_stays(quick, moved):
    quick.run()
    output = quick.parameters.segmentation
    moved.SetAndObserveTransformNodeID(None)
    quick.ui.segmentButton.click()
    assert "is not under the same transform as volume 'patient'" in quick.ui.messageLabel.text
    assert not quick.status.is_running
    assert np.array_equal(segment_mask(output, "liver", moved), LIVER)


def test_segment_cancel_segment_pressed_at_once_is_a_run(quick, target):
    for _ in range(3):
        quick.ui.segmentButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert quick.status.state is State.DONE, quick.status
    assert np.array_equal(segment_mask(quick.parameters.segmentation, "liver", target), LIVER)


@pytest.mark.parametrize("part", ["segmentation", "target", "confidence"])
def test_buttons_do_no_harm_once_a_node_of_the_result_was_deleted(quick, scene, part):
    quick.run()
    quick.ui.reviewedButton.click()
    scene.RemoveNode(getattr(quick.parameters, part))
    for name in ("edit", "reviewed", "show3D", "scoresTable", "learnCorrections", "undo"):
        getattr(quick.ui, f"{name}Button").click()
    quick.ui.addToSupportButton.click()
    quick.widget.reviewPart.go(1)
    quick.wait(lambda: quick.controller.is_idle)
    assert quick.ui.editButton.enabled == (part != "segmentation")


@pytest.mark.parametrize("shape", [(1, 20, 16), (1, 1, 1), (12, 1, 1)])
def test_a_very_small_volume_gets_a_result_of_its_size(open_panel, scene, pairs, shape):
    starts = [(whole - size) // 2 for whole, size in zip(SHAPE, shape, strict=True)]
    part = tuple(slice(at, at + size) for at, size in zip(starts, shape, strict=True))
    small = add_volume(scene, IMAGE[part].copy(), "small", OBLIQUE)
    panel = open_panel(synthetic_command())
    panel.choose(small, pairs)
    assert panel.run().state is State.DONE
    found = segment_mask(panel.parameters.segmentation, "liver", small)
    assert np.array_equal(found, LIVER[part])


# Corrections and what was learned


@pytest.mark.parametrize("allowed", [False, True])
def test_a_structure_that_was_renamed_is_not_taught_to_be_nowhere_unless_that_is_allowed(
    quick, allowed
):
    quick.run()
    segmentation = quick.parameters.segmentation.GetSegmentation()
    lesion = segmentation.GetSegmentIdBySegmentName("lesion")
    segmentation.GetSegment(lesion).SetName("tumour")
    quick.ui.allowMissingCheckBox.checked = allowed
    quick.ui.reviewedButton.click()
    quick.ui.addToSupportButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    refused = "has no segment 'lesion'" in quick.ui.messageLabel.text
    assert refused == (not allowed)
    assert quick.ui.supportTable.rowCount == (3 if allowed else 2)


def test_a_result_that_learns_from_corrections_after_its_review_is_to_be_reviewed_again(quick):
    quick.run()
    quick.ui.reviewedButton.click()
    assert quick.ui.addToSupportButton.enabled
    correct(quick, "lesion", 10)
    assert quick.ui.reviewedButton.enabled and not quick.ui.addToSupportButton.enabled
    quick.ui.reviewedButton.click()
    quick.ui.undoButton.click()
    assert quick.ui.reviewedButton.enabled and not quick.ui.addToSupportButton.enabled


def test_a_result_that_undo_brings_back_is_as_reviewed_as_it_was(quick):
    quick.run()
    quick.run()
    quick.ui.reviewedButton.click()
    quick.ui.undoButton.click()
    assert not is_reviewed(quick.parameters.segmentation)
    assert quick.ui.reviewedButton.enabled and not quick.ui.addToSupportButton.enabled


def test_a_reviewed_result_is_reviewed_again_when_undo_brings_it_back(quick):
    quick.run()
    quick.ui.reviewedButton.click()
    quick.run()
    quick.ui.undoButton.click()
    assert is_reviewed(quick.parameters.segmentation)


def test_doubt_and_confidence_go_with_the_result_that_is_taken_back(quick):
    quick.run()
    quick.run()
    assert quick.ui.doubtfulTable.rowCount and confidence_of(quick).any()
    quick.ui.undoButton.click()
    assert not quick.ui.doubtfulTable.rowCount and not confidence_of(quick).any()


def test_a_result_that_undo_brings_back_says_of_which_image_it_is(quick, target):
    quick.run()
    first = image_of(quick)
    slicer.util.arrayFromVolume(target)[2] += 1
    quick.run()
    assert image_of(quick) not in (None, first)
    quick.ui.undoButton.click()
    assert image_of(quick) == first


def test_a_result_of_a_cancelled_run_is_not_said_to_be_of_the_image_before(slow, target):
    slow.run()
    assert image_of(slow)
    slicer.util.arrayFromVolume(target)[2] += 1
    start(slow)
    slow.ui.segmentButton.click()
    slow.wait(lambda: slow.controller.is_idle)
    assert slow.status.state is State.CANCELLED and image_of(slow) is None


def test_corrections_are_told_of_the_chosen_result_alone_where_a_volume_has_two(quick):
    quick.run()
    first = quick.parameters.segmentation
    quick.ui.outputSelector.setCurrentNode(None)
    quick.run()
    second = quick.parameters.segmentation
    assert second is not first
    erase(quick, "lesion", 10)
    quick.wait(lambda: "11" in quick.ui.correctedLabel.text)
    quick.ui.outputSelector.setCurrentNode(first)
    quick.wait(lambda: quick.ui.correctedLabel.text == "" and quick.controller.is_idle)
    quick.ui.outputSelector.setCurrentNode(second)
    quick.wait(lambda: "11" in quick.ui.correctedLabel.text)


def test_what_was_drawn_by_hand_is_no_result_to_be_reviewed(quick, pairs):
    quick.ui.outputSelector.setCurrentNode(pairs[0][1])
    assert quick.ui.editButton.enabled and not quick.ui.reviewedButton.enabled


def test_corrections_are_not_taught_to_a_task_of_other_structures(quick, scene, target, tmp_path):
    quick.run()
    output = quick.parameters.segmentation
    kidney = json.dumps([{"name": "kidney", "label": 1, "color": [1, 0, 0], "terminology": ""}])
    (tmp_path / "kidney.oflsam2").write_text(kidney)
    quick.widget.taskPart.load(str(tmp_path / "kidney.oflsam2"))
    quick.wait(lambda: quick.controller.is_idle)
    loaded = quick.controller.learned
    correct(quick, "lesion", 10)
    text = quick.ui.messageLabel.text
    assert "The learned task knows kidney; the result is of liver, lesion." in text
    assert quick.controller.learned is loaded
    assert segment_mask(output, "lesion", target)[9].any()


def test_what_corrections_teach_is_added_to_a_task_that_has_grown_meanwhile(quick, target):
    quick.run()
    output = quick.parameters.segmentation
    quick.ui.reviewedButton.click()
    quick.ui.addToSupportButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    quick.ui.targetSelector.setCurrentNode(target)
    quick.ui.outputSelector.setCurrentNode(output)
    correct(quick, "lesion", 10)
    assert quick.status.state is State.DONE, quick.status
    assert not segment_mask(output, "lesion", target).any()
    assert json.loads(quick.controller.learned.content.tobytes())[0]["cases"] == 1


def test_what_is_drawn_while_the_scene_is_written_for_a_cohort_does_not_stop_that(
    quick, scene, tmp_path
):
    quick.run()
    for number in range(4):
        add_volume(scene, np.roll(IMAGE, number, 2), f"MR {number}", OBLIQUE)
    quick.widget.cohortPart.start_scene(tmp_path)
    erase(quick, "lesion", 10)
    quick.widget.reviewPart.look_for_corrections()
    quick.wait(lambda: quick.controller.is_idle)
    listed = find_cases([str(tmp_path / "scene-volumes" / "cases.json")]).cases
    assert [case.name for case in listed] == ["patient", "MR_0", "MR_1", "MR_2", "MR_3"]
    assert quick.ui.correctedLabel.text == "1 slice corrected since the run: 11."


# A cohort in between


@pytest.fixture
def cohort(tmp_path, scene, monkeypatch):
    """Two cases, in whose files the lesion comes first; the second one is empty."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    structures = (Structure("lesion", 1), Structure("liver", 2))
    labels = np.where(LESION, 1, np.where(LIVER, 2, 0)).astype(np.uint8)
    with Manifest.create(folder) as manifest:
        manifest.begin({"layout": "flat", "task": "0" * 64}, host="elsewhere", pid=1)
        for name, own in (("p", labels), ("q", labels * 0)):
            image = Volume(IMAGE.astype(np.uint8), OBLIQUE, name)
            source = tmp_path / f"{name}.nrrd"
            write_confidence(source, image.array, image)
            manifest.waiting(CaseInput(name, str(source)))
            path = folder / f"{name}.seg.nrrd"
            write_segmentation(path, own, image, structures)
            details = {"confidence": 0.9, "structures": [], "outputs": {path.name: 1}}
            manifest.finished(name, "done", {"reason": "", **details})
    monkeypatch.setattr(slicer.util, "loadVolume", load_volume, raising=False)
    monkeypatch.setattr(slicer.util, "loadSegmentation", load_segmentation, raising=False)
    return folder


def load_next(panel):
    panel.ui.nextCaseButton.click()
    panel.wait(lambda: panel.controller.is_idle)


def test_corrections_of_a_cohorts_case_are_taught_under_the_tasks_own_labels(quick, cohort):
    quick.run()  # learns the liver as structure 1
    quick.widget.cohortPart.open(str(cohort))
    load_next(quick)
    node, volume = quick.parameters.segmentation, quick.parameters.target
    assert volume.GetName() == "p"
    correct(quick, "lesion", 10)
    assert quick.status.state is State.DONE, quick.status
    assert np.array_equal(segment_mask(node, "liver", volume), LIVER)
    assert not segment_mask(node, "lesion", volume).any()
    taught = json.loads(quick.controller.learned.content.tobytes())
    assert [(one["name"], one["levels"]) for one in taught] == [("liver", [100]), ("lesion", [])]


def test_a_case_in_which_nothing_was_found_is_loaded_as_the_others_are(quick, cohort):
    quick.widget.cohortPart.open(str(cohort))
    load_next(quick)
    quick.ui.acceptCaseButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert quick.parameters.target.GetName() == "q", quick.ui.messageLabel.text
    assert not segment_mask(quick.parameters.segmentation, "liver", quick.parameters.target).any()
    assert "no labelled voxel" not in quick.ui.messageLabel.text


def test_a_cohorts_case_is_not_loaded_into_a_run(slow, cohort, target):
    slow.widget.cohortPart.open(str(cohort))
    start(slow)
    slow.ui.nextCaseButton.click()
    assert "A run is under way" in slow.ui.messageLabel.text
    slow.wait(lambda: slow.controller.is_idle)
    assert slow.status.state is State.DONE and slow.parameters.target is target
    load_next(slow)
    assert slow.parameters.target.GetName() == "p"


def test_no_verdict_is_given_on_a_case_that_is_no_longer_in_the_scene(quick, cohort, scene):
    part = quick.widget.cohortPart
    part.open(str(cohort))
    load_next(quick)
    scene.RemoveNode(quick.parameters.segmentation)
    quick.ui.saveCaseButton.click()
    assert "The segmentation of 'p' was deleted" in quick.ui.messageLabel.text
    assert not (cohort / "corrected" / "p.seg.nrrd").exists()
    assert quick.ui.acceptCaseButton.enabled
    scene.Clear(False)
    assert not quick.ui.acceptCaseButton.enabled and not quick.ui.saveCaseButton.enabled
    load_next(quick)
    assert quick.parameters.target.GetName() == "p"


# A saved scene


def test_a_saved_scene_goes_on_where_it_was(quick, scene, target):
    quick.run()
    scene.SetSaveToXMLString(1)
    scene.Commit()
    xml = scene.GetSceneXMLString()
    scene.Clear(False)
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(xml)
    scene.Import()
    quick.widget.enter()
    assert quick.parameters.segmentation.GetName() == "patient segmentation"
    assert not quick.ui.undoButton.enabled and quick.ui.correctedLabel.text == ""
    assert quick.ui.doubtfulTable.rowCount == 0
    # Images are files of their own, which an XML string lacks; the quick says so.
    quick.ui.segmentButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert "no image data" in quick.ui.messageLabel.text
