"""The effect of the Segment Editor, on Slicer's own editor logic: masking, overwriting, undo."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
import slicer
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.effect_registration import register_effect
from panels import synthetic_command
from scenes import OBLIQUE, add_segmentation, add_volume, ball, segment_mask

SHAPE = (12, 24, 16)
LIVER, LESION = ball(SHAPE, (6, 12, 8), 5), ball(SHAPE, (6, 12, 8), 2)
IMAGE = np.zeros(SHAPE, np.int16)
IMAGE[LIVER], IMAGE[LESION] = 100, 200
LIVER = LIVER & ~LESION


@pytest.fixture
def volume(scene):
    return add_volume(scene, IMAGE, "patient", OBLIQUE)


@pytest.fixture
def panel(scene, open_panel):
    """The module's panel, with a task learned from one case."""
    panel = open_panel(synthetic_command())
    case = add_volume(scene, np.roll(IMAGE, 2, axis=1), "case", OBLIQUE)
    masks = {"liver": np.roll(LIVER, 2, axis=1), "lesion": np.roll(LESION, 2, axis=1)}
    labels = add_segmentation(scene, case, masks, "case seg")
    panel.logic.learn([(case, labels)], workerCommand=synthetic_command())
    module = slicer.modules.oflsam2slicer
    module.widgetRepresentation = lambda: types.SimpleNamespace(self=lambda: panel.widget)
    yield panel
    del module.widgetRepresentation


@pytest.fixture
def edited(scene, volume):
    """A segmentation with an empty liver, and something else that was drawn by hand."""
    other = np.zeros(SHAPE, bool)
    other[:, 10:14, :] = True
    return add_segmentation(scene, volume, {"Liver": LIVER & False, "other": other}, "edited")


@pytest.fixture
def effect(panel, edited, volume):
    effect = register_effect()
    effect.edit(edited, volume, "Liver")
    return effect


def press(effect, panel, button):
    getattr(effect.self(), button).click()
    panel.wait(lambda: panel.controller.is_idle)


def overwrite(effect, mode):
    effect.parameterSetNode().SetOverwriteMode(mode)


def go_to(scene, volume, index):
    """Have the red view show the volume, in one of its slices."""
    for number in range(3):
        composite = scene.GetNthNodeByClass(number, "vtkMRMLSliceCompositeNode")
        composite.SetBackgroundVolumeID(volume.GetID() if number == 0 else None)
    red = next(
        scene.GetNthNodeByClass(number, "vtkMRMLSliceNode")
        for number in range(3)
        if scene.GetNthNodeByClass(number, "vtkMRMLSliceNode").GetLayoutName()
        == scene.GetNthNodeByClass(0, "vtkMRMLSliceCompositeNode").GetLayoutName()
    )
    normal, across = OBLIQUE[:3, 2], OBLIQUE[:3, 0]
    center = (OBLIQUE @ [8, 12, index, 1])[:3]
    normal, across = normal / np.linalg.norm(normal), across / np.linalg.norm(across)
    red.SetSliceToRASByNTP(*normal, *across, *center, 0)


def test_the_selected_segment_is_predicted_in_all_slices(effect, panel, edited, volume):
    overwrite(effect, effect.parameterSetNode().OverwriteNone)
    press(effect, panel, "allButton")
    assert np.array_equal(segment_mask(edited, "Liver", volume), LIVER)
    other = segment_mask(edited, "other", volume)
    assert other[:, 10:14, :].all()


def test_only_the_slice_of_the_view_is_predicted_and_the_worker_is_asked_once(
    effect, panel, edited, volume, scene
):
    go_to(scene, volume, 5)
    press(effect, panel, "sliceButton")
    expected = np.zeros(SHAPE, bool)
    expected[5] = LIVER[5]
    assert np.array_equal(segment_mask(edited, "Liver", volume), expected)
    panel.controller.link.close()
    go_to(scene, volume, 7)
    press(effect, panel, "sliceButton")
    expected[7] = LIVER[7]
    assert np.array_equal(segment_mask(edited, "Liver", volume), expected)
    assert not panel.controller.link.is_alive


def test_another_task_predicts_anew(effect, panel, edited, volume, tmp_path):
    overwrite(effect, effect.parameterSetNode().OverwriteNone)
    press(effect, panel, "allButton")
    liver = {"name": "liver", "label": 1, "color": [1, 0, 0], "terminology": "", "levels": [200]}
    (tmp_path / "bright.oflsam2").write_text(json.dumps([liver]))
    panel.widget.taskPart.load(str(tmp_path / "bright.oflsam2"))
    panel.wait(lambda: panel.controller.is_idle)
    press(effect, panel, "allButton")
    assert np.array_equal(segment_mask(edited, "Liver", volume), LESION)


def test_a_volume_whose_spacing_was_corrected_is_predicted_anew(effect, panel, volume):
    press(effect, panel, "allButton")
    panel.controller.link.close()
    volume.SetSpacing(1, 1, 4)
    press(effect, panel, "allButton")
    assert panel.controller.link.is_alive


def test_a_volume_that_was_moved_is_predicted_anew(effect, panel, edited, volume, scene):
    press(effect, panel, "allButton")
    panel.controller.link.close()
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "registration")
    matrix = geometry.array_to_matrix(np.diag([1, 1, 1, 1]) + 3 * np.eye(4, k=3))
    transform.SetMatrixTransformToParent(matrix)
    for node in (volume, edited):
        node.SetAndObserveTransformNodeID(transform.GetID())
    press(effect, panel, "allButton")
    assert panel.controller.link.is_alive


def test_what_was_drawn_too_much_is_removed(effect, panel, edited, volume, scene):
    segment = edited.GetSegmentation().GetSegment("Liver")
    drawn = np.zeros(SHAPE, bool)
    drawn[4:7, 2:20, 2:14] = True
    slicer.util.arrayFromSegmentInternalBinaryLabelmap(edited, "Liver")[...] = drawn
    segment.Modified()
    go_to(scene, volume, 5)
    press(effect, panel, "sliceButton")
    expected = drawn.copy()
    expected[5] = LIVER[5]
    assert np.array_equal(segment_mask(edited, "Liver", volume), expected)


def test_other_segments_give_way_only_where_the_editor_says_so(effect, panel, edited, volume):
    overwrite(effect, effect.parameterSetNode().OverwriteAllSegments)
    press(effect, panel, "allButton")
    assert np.array_equal(segment_mask(edited, "Liver", volume), LIVER)
    assert not (segment_mask(edited, "other", volume) & LIVER).any()


def test_masking_settings_hold(effect, panel, edited, volume):
    node = effect.parameterSetNode()
    overwrite(effect, node.OverwriteNone)
    node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    node.SetMaskSegmentID("other")
    press(effect, panel, "allButton")
    other = segment_mask(edited, "other", volume)
    found = segment_mask(edited, "Liver", volume)
    assert found.any() and np.array_equal(found, LIVER & other)


def test_one_undo_of_the_editor_takes_it_back(effect, panel, edited, volume):
    before = segment_mask(edited, "other", volume)
    overwrite(effect, effect.parameterSetNode().OverwriteAllSegments)
    press(effect, panel, "allButton")
    effect.logic.Undo()
    assert not segment_mask(edited, "Liver", volume).any()
    assert np.array_equal(segment_mask(edited, "other", volume), before)


def test_a_segment_that_the_task_does_not_know_is_reported_with_those_it_knows(
    effect, panel, edited
):
    effect.parameterSetNode().SetSelectedSegmentID("other")
    press(effect, panel, "allButton")
    text = effect.self().messageLabel.text
    assert "no structure 'other'" in text and "liver, lesion" in text


def test_without_a_learned_task_there_is_nothing_to_press(panel, edited, volume):
    panel.controller.forget_task()
    effect = register_effect()
    effect.edit(edited, volume, "Liver")
    assert not effect.self().allButton.enabled and not effect.self().sliceButton.enabled
    assert effect.self().taskLabel.text == "Nothing is learned yet."


def test_corrections_of_a_run_are_not_taken_for_the_effects_volume(
    effect, panel, edited, volume, scene
):
    # The worker keeps one volume, and the effect's is not the panel's.
    other = add_volume(scene, np.roll(IMAGE, -3, axis=1), "next patient", OBLIQUE)
    panel.ui.targetSelector.setCurrentNode(other)
    panel.ui.learnedTaskCheckBox.checked = True
    panel.run()
    output = panel.parameters.segmentation
    press(effect, panel, "allButton")
    slicer.util.arrayFromSegmentInternalBinaryLabelmap(
        output, output.GetSegmentation().GetNthSegmentID(0)
    )[6, 0, 0] = 1
    output.GetSegmentation().GetNthSegment(0).Modified()
    panel.wait(lambda: panel.ui.correctedLabel.text != "")
    panel.ui.learnCorrectionsButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    found = segment_mask(output, "lesion", other)
    assert np.array_equal(found, np.roll(LESION, -3, axis=1))
