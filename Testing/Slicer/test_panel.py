"""A user in front of the panel: clicks, what appears in the scene, and what goes wrong."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import slicer
from OFLSAM2SlicerLib import geometry, installer
from OFLSAM2SlicerLib.scene_nodes import nodes_of_class
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP
from panels import application, module, synthetic_command
from PySide6 import QtCore, QtGui, QtTest, QtWidgets
from scenes import OBLIQUE, SHAPE, add_segmentation, add_volume, case_arrays, segment_mask
from slicer_double import application as double

from OFLSAM2Core.app.states import State
from OFLSAM2Core.data.image_identity import image_identity
from OFLSAM2Core.io.made_of import images_made_of
from OFLSAM2Core.io.reading import read_volume
from OFLSAM2Core.methods import DEFAULT


def start(panel, slices=3):
    """Press Segment, and wait until some slices have arrived."""
    panel.ui.segmentButton.click()
    panel.wait(lambda: panel.status.slices_done >= slices or not panel.status.is_running)


def test_opening_the_panel_starts_and_imports_nothing(open_panel):
    before = len(psutil.Process().children(recursive=True))
    panel = open_panel()
    assert not panel.controller.link.is_alive
    assert len(psutil.Process().children(recursive=True)) == before
    assert double.executed == []


def test_from_clicks_to_segments_voxel_for_voxel(quick, target):
    _, liver, lesion = case_arrays(4)
    assert quick.ui.segmentButton.enabled
    assert quick.run().state is State.DONE
    output = quick.parameters.segmentation
    assert np.array_equal(segment_mask(output, "liver", target), liver)
    assert np.array_equal(segment_mask(output, "lesion", target), lesion)
    assert output.GetSegmentation().GetNthSegment(0).GetColor() == pytest.approx((0.9, 0.2, 0.1))
    confidence = slicer.util.arrayFromVolume(quick.parameters.confidence)
    assert confidence.min() > 0
    assert quick.ui.progressBar.value == 100
    assert quick.ui.messageLabel.text.startswith("20 slices segmented.")


def test_a_saved_result_says_of_which_image_it_is(quick, scene, target, tmp_path):
    quick.run()
    for node in (target, quick.parameters.segmentation):
        node.AddDefaultStorageNode()
    files = tmp_path / "patient.nrrd", tmp_path / "patient.seg.nrrd"
    for node, file in zip((target, quick.parameters.segmentation), files, strict=True):
        node.GetStorageNode().SetFileName(str(file))
        assert node.GetStorageNode().WriteData(node)
    assert images_made_of(files[1]) == {image_identity(read_volume(files[0]))}


def test_torch_is_never_imported_by_the_module():
    # In a process of its own: other tests of the project import torch.
    code = (
        "import sys, pathlib; sys.path[:0] = [str(pathlib.Path('Testing/Slicer').resolve())];"
        "import conftest, panels; panels.Panel; from scenes import new_scene; new_scene();"
        "panel = panels.Panel(); heavy = {'torch', 'sam2', 'openvino', 'monai', 'SimpleITK'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_worker_stays_warm_for_the_next_run(quick):
    quick.run()
    pid = quick.controller.link.pid
    quick.run()
    assert quick.controller.link.pid == pid


def test_slices_are_in_the_scene_before_the_run_is_over(slow, target):
    start(slow, 5)
    output = slow.parameters.segmentation
    slow.wait(lambda: segment_mask(output, "liver", target)[:5].any())
    assert slow.status.state is State.SEGMENTING
    assert slow.ui.segmentButton.text == "Cancel"
    assert not segment_mask(output, "liver", target)[18:].any()


def test_cancel_keeps_the_slices_that_arrived(slow, target):
    start(slow, 8)
    began = time.monotonic()
    slow.ui.segmentButton.click()
    slow.wait(lambda: not slow.status.is_running)
    assert time.monotonic() - began < 2
    assert slow.status.state is State.CANCELLED
    slow.wait(lambda: slow.controller.is_idle)
    kept = segment_mask(slow.parameters.segmentation, "liver", target)
    assert np.array_equal(kept[:8], case_arrays(4)[1][:8])
    assert "slices are kept" in slow.ui.messageLabel.text
    assert slow.ui.segmentButton.text == "Segment"


def test_cancel_before_anything_has_begun_is_a_cancel_and_the_worker_stays_usable(quick):
    quick.ui.segmentButton.click()
    assert quick.status.state is State.CHECKING
    quick.ui.segmentButton.click()
    assert quick.status.state is State.CANCELLED
    quick.wait(lambda: quick.controller.is_idle)
    assert quick.status.state is State.CANCELLED
    assert quick.run().state is State.DONE


def test_weights_are_downloaded_only_after_one_question_that_names_their_size(quick):
    quick.ui.backboneComboBox.setCurrentIndex(1)
    assert quick.parameters.backbone == "sam2.1-tiny"
    double.messages.clear()
    double.answers[:] = [False]
    assert quick.run().state is State.FAILED
    (question,) = double.messages
    assert "the model sam2.1-tiny, 156 MB" in question
    assert "Nothing was installed." in quick.ui.messageLabel.text
    assert not quick.controller.link.is_busy


def test_once_the_weights_are_there_the_run_goes_on_by_itself(quick):
    quick.ui.backboneComboBox.setCurrentIndex(1)
    double.messages.clear()
    double.answers[:] = [True]
    quick.ui.segmentButton.click()
    quick.wait(lambda: quick.status.state is State.DONE)
    assert len(double.messages) == 1


def test_a_second_press_while_the_model_is_downloaded_neither_asks_nor_downloads_again(quick):
    quick.ui.backboneComboBox.setCurrentIndex(1)
    quick.ui.checkButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    double.messages.clear()
    for _ in range(3):
        quick.ui.segmentButton.click()
    assert "is being downloaded" in quick.ui.messageLabel.text
    quick.wait(lambda: quick.status.state is State.DONE)
    assert len(double.messages) == 1


def test_answers_of_the_worker_that_come_when_the_scene_is_closed_do_no_harm(quick, scene):
    quick.widget.exit()
    quick.widget.parent.isEntered = False
    quick.ui.checkButton.click()
    quick.ui.removeFilesButton.click()
    scene.Clear(False)
    quick.wait(lambda: "37 MB of disk space freed" in quick.ui.modelLabel.text)
    quick.widget.parent.isEntered = True
    quick.widget.enter()
    assert "LiteMedSAM" in quick.ui.backboneLabel.text


def test_a_scene_that_names_a_model_which_is_none_here_opens_with_the_default(quick):
    quick.parameters.backbone = "sam9"
    quick.widget.enter()
    assert quick.parameters.backbone == "litemedsam"
    assert quick.run().state is State.DONE


def test_what_a_press_needs_is_asked_for_in_one_question_and_leaves_nothing_behind(
    open_panel, target, pairs, scene, monkeypatch
):
    there = {"numpy": "2.0.2", "scipy": "1.14.1", "SimpleITK": "2.5.2"}
    monkeypatch.setattr(installer, "installed_version", there.get)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)  # importing it fails
    panel = open_panel("")
    panel.choose(target, pairs)
    before = scene.GetNumberOfNodes()
    double.messages.clear()
    double.answers[:] = [False]
    panel.ui.segmentButton.click()
    (question,) = double.messages
    for told in ("PyTorch, 750 MB", "openvino, 180 MB", "litemedsam, 37 MB", "extension PyTorch"):
        assert told in question
    assert scene.GetNumberOfNodes() == before
    assert not panel.controller.link.is_alive


def test_a_worker_without_packages_is_reported_and_the_scene_stays_as_it_was(
    open_panel, target, pairs, scene
):
    panel = open_panel(synthetic_command("--mode", "bare"))
    panel.choose(target, pairs)
    before = {node.GetID() for node in nodes_of_class(scene, "vtkMRMLNode")}
    assert panel.run().state is State.FAILED
    assert "lacks torch" in panel.ui.messageLabel.text
    assert {node.GetID() for node in nodes_of_class(scene, "vtkMRMLNode")} == before
    assert panel.parameters.segmentation is None and panel.parameters.confidence is None


def test_a_run_cancelled_before_its_first_slice_leaves_the_earlier_result(quick, target):
    quick.run()
    output = quick.parameters.segmentation
    first = segment_mask(output, "liver", target)
    quick.ui.workerCommandLineEdit.text = synthetic_command("--mode", "late")
    quick.ui.segmentButton.click()
    quick.wait(lambda: quick.status.state is State.SEGMENTING)
    quick.wait(lambda: not segment_mask(output, "liver", target).any())
    quick.ui.segmentButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert quick.status.state is State.CANCELLED
    assert np.array_equal(segment_mask(output, "liver", target), first)


def test_a_message_unfolds_the_part_that_it_names(open_panel, target, pairs):
    panel = open_panel(synthetic_command("--mode", "bare"))
    panel.choose(target, pairs)
    assert panel.ui.modelCollapsibleButton.collapsed
    panel.run()
    assert "part Model" in panel.ui.messageLabel.text
    assert not panel.ui.modelCollapsibleButton.collapsed
    assert panel.ui.taskCollapsibleButton.collapsed
    panel.ui.learnedTaskCheckBox.checked = True
    panel.ui.targetSelector.setCurrentNode(target)
    panel.widget.showStatus()
    panel.widget.runPart.say(panel.widget.whyNot())
    assert not panel.ui.taskCollapsibleButton.collapsed


@pytest.mark.parametrize(("mode", "delay", "slices"), [("deaf", "0.3", 2), ("hang", "0.01", 10)])
def test_a_worker_that_does_not_listen_is_killed_within_two_seconds(
    open_panel, target, pairs, mode, delay, slices
):
    panel = open_panel(synthetic_command("--mode", mode, "--delay", delay))
    panel.choose(target, pairs)
    start(panel, slices)
    processes = panel.children_of_worker()
    began = time.monotonic()
    panel.ui.segmentButton.click()
    panel.wait(lambda: not panel.status.is_running)
    assert time.monotonic() - began < 2
    assert panel.status.state is State.CANCELLED
    assert panel.status.slices_done >= slices
    assert psutil.wait_procs(processes, timeout=2)[1] == []


def test_a_worker_that_dies_is_reported_with_its_last_words_and_the_next_run_is_fresh(
    open_panel, target, pairs
):
    panel = open_panel(synthetic_command("--mode", "die"))
    panel.choose(target, pairs)
    assert panel.run().state is State.FAILED
    assert "out of memory: killed" in panel.ui.messageLabel.text
    assert panel.status.slices_done == 10
    panel.ui.workerCommandLineEdit.text = synthetic_command()
    assert panel.run().state is State.DONE


def test_what_the_worker_warns_of_is_in_the_message_while_it_works_and_when_it_is_done(
    open_panel, target, pairs
):
    panel = open_panel(synthetic_command("--mode", "warn", "--delay", "0.05"))
    panel.choose(target, pairs)
    warning = f"'{target.GetName()}' looks odd."
    panel.ui.segmentButton.click()
    panel.wait(lambda: warning in panel.ui.messageLabel.text)
    assert panel.status.state is State.SEGMENTING
    panel.wait(lambda: panel.controller.is_idle)
    assert panel.status.state is State.DONE
    assert panel.ui.messageLabel.text.count(warning) == 1


def test_a_command_that_cannot_be_started_is_reported(open_panel, target, pairs):
    panel = open_panel("/no/such/python -m OFLSAM2Core.worker")
    panel.choose(target, pairs)
    assert panel.run().state is State.FAILED
    assert "/no/such/python" in panel.ui.messageLabel.text


def test_closing_the_scene_in_mid_run_ends_it_without_a_word(slow, scene, caplog):
    start(slow)
    scene.Clear(False)
    slow.wait(lambda: slow.controller.is_idle)
    assert slow.status.state is State.IDLE
    assert slow.parameters is not None
    assert slow.ui.supportTable.rowCount == 0
    assert caplog.records == []


@pytest.mark.parametrize("victim", ["segmentation", "target"])
def test_deleting_a_node_of_the_run_stops_it(slow, scene, victim, caplog):
    start(slow)
    scene.RemoveNode(getattr(slow.parameters, victim))
    slow.wait(lambda: not slow.status.is_running)
    assert slow.status.state is State.CANCELLED
    assert "was removed" in slow.ui.messageLabel.text
    assert caplog.records == []


def test_deleting_the_confidence_volume_does_not_disturb_the_run(slow, scene, target):
    start(slow)
    scene.RemoveNode(slow.parameters.confidence)
    slow.wait(lambda: slow.controller.is_idle)
    assert slow.status.state is State.DONE
    mask = segment_mask(slow.parameters.segmentation, "liver", target)
    assert np.array_equal(mask, case_arrays(4)[1])


def test_closing_the_panel_or_slicer_in_mid_run_leaves_no_process(slow):
    start(slow)
    processes = slow.children_of_worker()
    assert processes
    slicer.app.quit()
    gone, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive


def test_switching_modules_in_mid_run_lets_it_go_on(slow, target):
    start(slow)
    slow.widget.exit()
    slow.wait(lambda: slow.controller.is_idle)
    slow.widget.enter()
    assert slow.status.state is State.DONE
    slow.ui.confidenceThresholdSlider.value = 0.5
    assert slow.parameters.confidenceThreshold == 0.5


def test_undo_run_removes_what_the_run_made(quick, target):
    quick.run()
    output = quick.parameters.segmentation
    first = segment_mask(output, "liver", target)
    slicer.util.arrayFromVolume(target)[...] = 0
    quick.run()
    assert not segment_mask(output, "liver", target).any()
    quick.ui.undoButton.click()
    assert np.array_equal(segment_mask(output, "liver", target), first)
    assert not quick.ui.undoButton.enabled


def test_the_next_patients_run_leaves_the_result_of_the_one_before_as_it_is(quick, scene, target):
    quick.run()
    output, confidence = quick.parameters.segmentation, quick.parameters.confidence
    first = segment_mask(output, "liver", target)
    other = add_volume(scene, case_arrays(1)[0], "next patient", OBLIQUE)
    quick.ui.targetSelector.setCurrentNode(other)
    quick.run()
    assert np.array_equal(segment_mask(output, "liver", target), first)
    assert quick.parameters.segmentation is not output
    assert quick.parameters.confidence is not confidence
    assert np.array_equal(
        segment_mask(quick.parameters.segmentation, "liver", other), case_arrays(1)[1]
    )


def test_a_run_that_could_not_start_does_not_take_away_the_way_back(quick, target):
    quick.run()
    first = segment_mask(quick.parameters.segmentation, "liver", target)
    slicer.util.arrayFromVolume(target)[...] = 0
    quick.run()
    quick.ui.workerCommandLineEdit.text = "/no/such/worker"
    assert quick.run().state is State.FAILED
    quick.ui.undoButton.click()
    assert np.array_equal(segment_mask(quick.parameters.segmentation, "liver", target), first)


def test_a_scene_that_is_opened_shows_its_support_cases_at_once(quick, scene):
    scene.SetSaveToXMLString(1)
    scene.Commit()
    xml = scene.GetSceneXMLString()
    scene.Clear(False)
    assert quick.widget.supportPart.pairs == []
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(xml)
    scene.Import()
    assert [p.volume_node.GetName() for p in quick.widget.supportPart.pairs] == ["case 1", "case 2"]


def test_every_button_asks_the_worker_that_is_set(quick):
    quick.ui.workerCommandLineEdit.text = "/no/such/worker"
    quick.ui.workerCommandLineEdit.editingFinished.emit()
    quick.ui.checkButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert "/no/such/worker" in quick.ui.modelLabel.text


def test_a_worker_command_with_an_open_quote_is_reported(quick):
    quick.ui.workerCommandLineEdit.text = '"/no/such worker'
    quick.ui.segmentButton.click()
    assert "cannot be read" in quick.ui.messageLabel.text
    assert not quick.status.is_running


def test_the_text_on_the_model_comes_back_after_a_run(quick):
    quick.ui.modelLabel.text = "Python 3, PyTorch 2."
    quick.run()
    assert quick.ui.modelLabel.text == "Python 3, PyTorch 2."


def test_there_is_always_a_reason_beside_a_disabled_button(open_panel, target, pairs):
    panel = open_panel(synthetic_command())
    ui = panel.ui

    def told():
        assert not ui.segmentButton.enabled
        assert ui.messageLabel.text == ui.segmentButton.toolTip
        return ui.messageLabel.text

    assert told() == "Pick the volume to segment."
    ui.targetSelector.setCurrentNode(target)
    assert told() == "Add at least one support case."
    panel.choose(target, pairs)
    assert ui.segmentButton.enabled
    ui.targetSelector.setCurrentNode(pairs[0][0])
    assert "'case 1' is the volume to segment and a support case at once" in told()
    ui.targetSelector.setCurrentNode(target)
    pairs[1][1].GetSegmentation().RemoveSegment("lesion")
    panel.widget.supportPart.refresh()
    assert "'lesion' is in 1 of 2 support cases" in told()
    ui.allowMissingCheckBox.checked = True
    assert ui.segmentButton.enabled
    for row in range(2):
        ui.structuresTable.item(row, 0).setCheckState(QtCore.Qt.Unchecked)
    assert told() == "Tick at least one structure."


def test_only_ticked_structures_are_segmented(quick):
    quick.ui.structuresTable.item(1, 0).setCheckState(QtCore.Qt.Unchecked)
    quick.run()
    segmentation = quick.parameters.segmentation.GetSegmentation()
    assert [segmentation.GetNthSegment(0).GetName()] == ["liver"]
    assert segmentation.GetNumberOfSegments() == 1


def test_all_matching_pairs_are_added_but_not_the_volume_to_segment(
    open_panel, scene, target, pairs
):
    own = add_segmentation(scene, target, {"liver": case_arrays(4)[1]}, "of the patient")
    panel = open_panel()
    panel.ui.targetSelector.setCurrentNode(target)
    panel.ui.addAllButton.click()
    assert panel.ui.supportTable.rowCount == 2
    assert own not in [pair.labels_node for pair in panel.widget.supportPart.pairs]
    panel.click_support(0)
    panel.ui.removeSupportButton.click()
    assert [pair.volume_node for pair in panel.widget.supportPart.pairs] == [pairs[1][0]]


def test_the_result_of_the_patient_before_becomes_a_support_case_with_add_all(quick, scene, target):
    quick.run()
    result = quick.parameters.segmentation
    following = add_volume(scene, case_arrays(1)[0], "next patient", OBLIQUE)
    quick.ui.targetSelector.setCurrentNode(following)
    quick.ui.addAllButton.click()
    assert quick.ui.supportTable.rowCount == 3
    assert result in [pair.labels_node for pair in quick.widget.supportPart.pairs]
    assert quick.run().state is State.DONE
    assert quick.parameters.segmentation is not result


def test_support_cases_are_greyed_while_a_learned_task_is_used(quick):
    quick.run()
    quick.ui.learnedTaskCheckBox.checked = True
    assert not quick.ui.supportTable.enabled and not quick.ui.addAllButton.enabled
    quick.ui.learnedTaskCheckBox.checked = False
    assert quick.ui.supportTable.enabled and quick.ui.addAllButton.enabled


def test_tables_are_as_tall_as_their_rows(quick, scene):
    def rows_visible(table):
        inside = table.height - table.horizontalHeader().height()
        return inside // table.verticalHeader().defaultSectionSize()

    for table in (quick.ui.supportTable, quick.ui.structuresTable):
        assert rows_visible(table) == table.rowCount == 2
    quick.run()
    table = quick.ui.doubtfulTable
    assert rows_visible(table) == table.rowCount > 4


def test_the_panel_before_a_run_is_less_than_900_pixels_tall(quick, tmp_path):
    path = tmp_path / "panel.png"
    quick.picture(path)
    assert QtGui.QImage(str(path)).height() < 900


def test_a_deleted_support_case_leaves_the_table(quick, scene, pairs):
    scene.RemoveNode(pairs[0][1])
    assert quick.ui.supportTable.rowCount == 1


@pytest.fixture
def views(scene, target):
    """The slice views, showing the volume to segment."""
    found = nodes_of_class(scene, "vtkMRMLSliceCompositeNode")
    for view in found:
        view.SetBackgroundVolumeID(target.GetID())
    return found


def test_a_structure_that_was_not_found_or_hardly_is_reported_and_a_script_can_see_it(
    quick, scene, target, pairs
):
    image, _liver, _lesion = case_arrays(4)
    image[image == 200] = 0  # no lesion,
    image[(image == 100) & (np.indices(SHAPE)[0] != 10)] = 0  # and little of the liver
    image[10, :, ::2] = 0
    quick.ui.targetSelector.setCurrentNode(add_volume(scene, image, "another", OBLIQUE))
    status = quick.run()
    assert status.state is State.DONE
    assert status.structures == {"liver": "doubtful", "lesion": "empty"}
    text = quick.ui.messageLabel.text
    assert "lesion is empty: nothing was found." in text
    assert "liver is doubtful: almost nothing was found, 1 to 2 ml in the support." in text
    quick.ui.targetSelector.setCurrentNode(target)
    status = quick.run()
    assert status.structures == {"liver": "found", "lesion": "found"}
    assert "nothing was found" not in quick.ui.messageLabel.text


def test_confidence_is_in_the_views_and_goes_when_switched_off(quick, views):
    quick.run()
    node_id = quick.parameters.confidence.GetID()
    assert {view.GetForegroundVolumeID() for view in views} == {node_id}
    quick.ui.confidenceOpacitySlider.value = 0.25
    assert {view.GetForegroundOpacity() for view in views} == {0.25}
    quick.ui.confidenceCheckBox.checked = False
    assert {view.GetForegroundVolumeID() for view in views} == {None}


def test_only_doubt_is_visible_at_first(quick, views):
    quick.run()
    display = quick.parameters.confidence.GetDisplayNode()
    assert display.GetUpperThreshold() == round(0.9 * 255)


def test_confidence_leaves_the_views_with_the_module_and_comes_back_with_it(slow, views):
    start(slow)
    slow.widget.exit()
    assert {view.GetForegroundVolumeID() for view in views} == {None}
    slow.wait(lambda: slow.controller.is_idle)
    assert {view.GetForegroundVolumeID() for view in views} == {None}
    slow.widget.enter()
    node_id = slow.parameters.confidence.GetID()
    assert {view.GetForegroundVolumeID() for view in views} == {node_id}


def test_confidence_follows_the_volume_from_view_to_view(quick, scene, views):
    quick.run()
    other = add_volume(scene, case_arrays(1)[0], "another patient", OBLIQUE)
    views[0].SetBackgroundVolumeID(other.GetID())
    node_id = quick.parameters.confidence.GetID()
    foreground = [view.GetForegroundVolumeID() for view in views]
    assert foreground == [None, node_id, node_id]
    views[0].SetBackgroundVolumeID(quick.parameters.target.GetID())
    assert views[0].GetForegroundVolumeID() == node_id


def slice_in_view(scene):
    """The number of the slice that the red view goes through, from 1, of OBLIQUE volumes."""
    red = nodes_of_class(scene, "vtkMRMLSliceNode")[0].GetSliceToRAS()
    center = [red.GetElement(row, 3) for row in range(3)]
    normal = np.array([red.GetElement(row, 2) for row in range(3)])
    distances = [
        abs(normal @ ((OBLIQUE @ [8, 14, index, 1])[:3] - center)) for index in range(SHAPE[0])
    ]
    return int(np.argmin(distances)) + 1


def test_n_p_and_the_arrow_keys_go_through_the_doubtful_slices(quick, scene):
    quick.run()
    table = quick.ui.doubtfulTable
    numbers = [int(table.item(row, 0).text()) for row in range(table.rowCount)]
    review = quick.widget.reviewPart
    for row in (0, 1, 2):
        review.go(1)
        assert table.currentRow() == row and slice_in_view(scene) == numbers[row]
    review.go(-1)
    assert slice_in_view(scene) == numbers[1]
    table.setFocus()
    QtTest.QTest.keyClick(table, QtCore.Qt.Key_Down)
    assert slice_in_view(scene) == numbers[2]
    for _ in range(20):
        review.go(1)
    assert slice_in_view(scene) == numbers[-1]
    assert table.item(0, 1).text()[0] in "RLAPSI" and table.item(0, 1).text().endswith(" mm")


def test_keys_start_and_cancel_a_run_and_go_through_slices_only_while_the_module_is_open(slow):
    window = slow.widget.parent
    window.show()
    window.activateWindow()
    slow.wait(lambda: window.isActiveWindow)
    slow.press(QtCore.Qt.Key_Return, held=QtCore.Qt.Key_Control)
    assert slow.status.is_running
    slow.wait(lambda: slow.status.slices_done > 8)
    slow.press(QtCore.Qt.Key_Return, held=QtCore.Qt.Key_Control)
    slow.wait(lambda: slow.controller.is_idle)
    assert slow.status.state is State.CANCELLED
    slow.press(QtCore.Qt.Key_N)
    assert slow.ui.doubtfulTable.currentRow() == 0
    slow.widget.exit()
    slow.press(QtCore.Qt.Key_N)
    slow.press(QtCore.Qt.Key_Return, held=QtCore.Qt.Key_Control)
    assert slow.ui.doubtfulTable.currentRow() == 0
    assert not slow.status.is_running


def test_the_result_is_made_visible_in_3d_and_opened_in_the_segment_editor(quick, target):
    ui = quick.ui
    assert not ui.editButton.enabled and ui.show3DButton.segmentationNode() is None
    quick.run()
    output = quick.parameters.segmentation
    assert ui.show3DButton.segmentationNode() is output
    ui.editButton.click()
    editor = slicer.modules.segmenteditor
    assert editor.isShown
    assert editor.segmentation is output and editor.volume is target


def test_segments_are_in_progress_until_the_user_has_reviewed_them(quick):
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    quick.run()
    segmentation = quick.parameters.segmentation.GetSegmentation()
    segments = [segmentation.GetNthSegment(number) for number in range(2)]
    assert [logic.GetSegmentStatus(one) for one in segments] == [logic.InProgress] * 2
    assert quick.ui.reviewedButton.enabled
    quick.ui.reviewedButton.click()
    assert [logic.GetSegmentStatus(one) for one in segments] == [logic.Completed] * 2
    assert not quick.ui.reviewedButton.enabled
    quick.run()
    assert [logic.GetSegmentStatus(one) for one in segments] == [logic.InProgress] * 2


def test_slices_that_are_corrected_after_a_run_are_noticed(quick, target):
    quick.run()
    label = quick.ui.correctedLabel
    assert label.text == ""
    segmentation = quick.parameters.segmentation.GetSegmentation()
    segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("lesion"))
    voxels = geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))
    voxels[9, 3:5, 3:6] = segment.GetLabelValue()
    voxels[12] = 0
    segment.Modified()
    quick.wait(lambda: label.text != "")
    assert label.text == "2 slices corrected since the run: 10, 13."
    quick.ui.undoButton.click()
    quick.wait(lambda: label.text == "" and quick.controller.is_idle)


def test_what_is_edited_elsewhere_is_noticed_when_the_module_is_opened_again(quick):
    quick.run()
    quick.widget.exit()
    segmentation = quick.parameters.segmentation.GetSegmentation()
    segment = segmentation.GetNthSegment(0)
    geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))[4, :2, :2] = 1
    segment.Modified()
    quick.widget.enter()
    quick.wait(lambda: quick.ui.correctedLabel.text != "")
    assert quick.ui.correctedLabel.text == "1 slice corrected since the run: 5."


def erase(panel, name, index):
    """What a user does in the Segment Editor: a structure is none in one slice."""
    segmentation = panel.parameters.segmentation.GetSegmentation()
    segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(name))
    plane = geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))[index]
    plane[plane == segment.GetLabelValue()] = 0
    segment.Modified()
    panel.wait(lambda: panel.ui.correctedLabel.text != "" and panel.controller.is_idle)


def learn_corrections(panel):
    assert panel.ui.learnCorrectionsButton.visible or not panel.widget.parent.isVisible()
    panel.ui.learnCorrectionsButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    return panel.status


def test_corrected_slices_teach_the_others_and_stay_and_one_undo_takes_it_back(quick, target):
    quick.run()
    output = quick.parameters.segmentation
    confidence = slicer.util.arrayFromVolume(quick.parameters.confidence).copy()
    learned, scores = quick.controller.learned, quick.controller.run.scores.all()
    _, liver, lesion = case_arrays(4)
    erase(quick, "lesion", 10)
    # A dot of another structure, which nothing but the user's hand would put there.
    voxels = geometry.image_array(
        output.GetSegmentation().GetNthSegment(0).GetRepresentation(BINARY_LABELMAP)
    )
    voxels[10, 1, 1] = 1
    assert learn_corrections(quick).state is State.DONE
    assert not segment_mask(output, "lesion", target).any()
    found = segment_mask(output, "liver", target)
    assert found[10, 1, 1] and np.array_equal(found[11], liver[11])
    assert quick.ui.correctedLabel.text == ""
    assert quick.controller.learned is not learned
    assert "Learned from the corrections" in quick.ui.messageLabel.text
    quick.ui.undoButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    expected = lesion.copy()
    expected[10] = False
    assert np.array_equal(segment_mask(output, "lesion", target), expected)
    assert segment_mask(output, "liver", target)[10, 1, 1]
    assert np.array_equal(slicer.util.arrayFromVolume(quick.parameters.confidence), confidence)
    assert quick.controller.learned is learned
    assert quick.controller.run.scores.all() == scores
    assert quick.ui.correctedLabel.text == "1 slice corrected since the run: 11."
    quick.ui.undoButton.click()  # and once more: the run itself
    assert output.GetSegmentation().GetNumberOfSegments() == 0


def test_corrections_add_up(quick, target):
    quick.run()
    output = quick.parameters.segmentation
    erase(quick, "lesion", 10)
    learn_corrections(quick)
    erase(quick, "liver", 5)
    learn_corrections(quick)
    assert not segment_mask(output, "lesion", target).any()
    # Slices 6 and 11 are truth, and say different things of the liver; what is known stays.
    found = segment_mask(output, "liver", target)
    assert found[10].any() and not found[5].any()


def test_a_worker_that_was_started_again_gets_the_volume_and_the_task_again(quick, target):
    quick.run()
    erase(quick, "lesion", 10)
    quick.controller.link.close()
    assert learn_corrections(quick).state is State.DONE
    assert not segment_mask(quick.parameters.segmentation, "lesion", target).any()


def test_where_a_method_does_not_learn_from_corrections_they_stay_as_they_are(
    open_panel, target, pairs
):
    panel = open_panel(synthetic_command("--mode", "stubborn"))
    panel.choose(target, pairs)
    panel.run()
    erase(panel, "lesion", 10)
    learned = panel.controller.learned
    assert learn_corrections(panel).state is State.FAILED
    assert "does not learn from corrections" in panel.ui.messageLabel.text
    assert panel.ui.correctedLabel.text == "1 slice corrected since the run: 11."
    assert panel.controller.learned is learned
    lesion = segment_mask(panel.parameters.segmentation, "lesion", target)
    assert lesion[9].any() and not lesion[10].any()


def test_a_reviewed_volume_joins_the_support_and_the_learned_task_grows(quick, scene, target):
    quick.run()
    output, learned = quick.parameters.segmentation, quick.controller.learned
    assert not quick.ui.addToSupportButton.enabled
    quick.ui.reviewedButton.click()
    quick.ui.addToSupportButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert quick.ui.supportTable.rowCount == 3
    assert quick.parameters.segmentation is None and quick.parameters.target is None
    assert "has grown by 'patient'" in quick.ui.messageLabel.text
    grown = json.loads(quick.controller.learned.content.tobytes())
    assert grown[0]["cases"] == 1 and quick.controller.learned is not learned
    following = add_volume(scene, case_arrays(1)[0], "next patient", OBLIQUE)
    quick.ui.targetSelector.setCurrentNode(following)
    quick.ui.learnedTaskCheckBox.checked = True
    assert quick.run().state is State.DONE
    assert quick.parameters.segmentation is not output
    found = segment_mask(quick.parameters.segmentation, "liver", following)
    assert np.array_equal(found, case_arrays(1)[1])


def test_a_click_on_a_doubtful_slice_takes_the_views_there(quick, scene):
    quick.run()
    table = quick.ui.doubtfulTable
    listed = [int(table.item(row, 0).text()) for row in range(table.rowCount)]
    assert 4 < len(listed) <= 8 and len(set(listed)) == len(listed)
    # What is no structure and near none is sure in the volume.
    doubt = 255 - slicer.util.arrayFromVolume(quick.parameters.confidence).astype(int)
    labels = segment_mask(quick.parameters.segmentation, "liver", quick.parameters.target)
    labels |= segment_mask(quick.parameters.segmentation, "lesion", quick.parameters.target)
    background = 5 * (labels.shape[1] * labels.shape[2] - labels.sum(axis=(1, 2)))
    most = int(((doubt * labels).sum(axis=(1, 2)) + background).argmax())
    assert table.item(0, 0).text() == str(most + 1)
    table.cellClicked.emit(0, 0)
    red = nodes_of_class(scene, "vtkMRMLSliceNode")[0]
    to_volume = np.linalg.inv(OBLIQUE)
    center = [red.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
    normal = [red.GetSliceToRAS().GetElement(row, 2) for row in range(3)]
    expected = OBLIQUE @ [8, 14, most, 1]
    assert abs(np.dot(normal, expected[:3] - center)) < 0.5
    assert to_volume.shape == (4, 4)


def test_scores_can_be_copied_to_a_table(quick, scene):
    quick.run()
    quick.ui.scoresTableButton.click()
    table = nodes_of_class(scene, "vtkMRMLTableNode")[0]
    assert table.GetNumberOfRows() == 20


def test_every_option_of_the_method_can_be_set_and_only_what_was_changed_is_kept(quick):
    from OFLSAM2SlicerLib.method_options import described_methods

    offered = described_methods()
    box, part = quick.ui.methodComboBox, quick.widget.optionsPart
    assert [box.itemText(number) for number in range(box.count)] == [one.name for one in offered]
    assert part.method.name == box.currentText == offered[0].name == DEFAULT
    assert part.options() == {}
    for number, method in enumerate(offered):
        box.setCurrentIndex(number)
        assert method.description in quick.ui.optionsLabel.text
        check_options(quick, method)


def check_options(quick, method):
    part = quick.widget.optionsPart
    for info in method.options:
        editor = quick.option(info.name)
        if info.type == "bool":
            assert editor.checked == info.default
            editor.checked = not info.default
            assert part.options()[info.name] is not info.default
            editor.checked = info.default
        elif info.type in ("int", "float"):
            assert editor.value == pytest.approx(info.default)
            room = info.high is None or info.default + editor.singleStep <= info.high
            other = info.default + (editor.singleStep if room else -editor.singleStep)
            editor.value = other
            assert part.options()[info.name] == pytest.approx(other)
            editor.value = info.default
        elif info.choices:
            assert editor.currentText == info.default
            editor.setCurrentText(info.choices[-1])
            assert part.options().get(info.name, info.default) == info.choices[-1]
            editor.setCurrentText(info.default)
        assert info.help == "" or info.help.split()[0].lower() in editor.toolTip.lower()
    assert part.options() == {}


def test_how_long_it_will_take_is_told_from_the_first_run_on(slow, target):
    assert "to learn on this computer" not in slow.ui.expectedTimeLabel.text
    slow.run()
    assert "to learn on this computer" in slow.ui.expectedTimeLabel.text
    assert "then about" in slow.ui.expectedTimeLabel.text
    slow.ui.learnedTaskCheckBox.checked = True
    assert "for this volume" in slow.ui.expectedTimeLabel.text


def test_opening_the_module_again_and_again_leaves_one_follower_of_the_parameters(quick, scene):
    def followers():
        gc.collect()
        kind = module.OFLSAM2SlicerParameterNode
        return sum(1 for thing in gc.get_objects() if type(thing) is kind)

    quick.widget.exit()
    quick.widget.enter()
    before, known = followers(), quick.parameters
    for _ in range(10):
        quick.widget.exit()
        quick.widget.enter()
    assert followers() == before
    assert quick.parameters is known
    quick.ui.confidenceThresholdSlider.value = 0.5
    assert quick.parameters.confidenceThreshold == 0.5


def test_a_tick_within_a_tick_does_nothing(quick, target):
    # A dialog that opens while an answer is handled lets the timer go on.
    depth = []

    def listener(status):
        depth.append(status.state)
        quick.controller.poll()
        application.processEvents()

    quick.controller.listeners.append(listener)
    assert quick.run().state is State.DONE
    assert depth[-1] is State.DONE
    mask = segment_mask(quick.parameters.segmentation, "liver", target)
    assert np.array_equal(mask, case_arrays(4)[1])


def test_a_scenes_learned_task_is_read_when_segment_is_pressed(quick, target, tmp_path):
    quick.run()
    quick.controller.save_task(tmp_path / "liver.oflsam2")
    quick.ui.forgetTaskButton.click()
    quick.parameters.learnedTaskPath = str(tmp_path / "liver.oflsam2")
    quick.parameters.useLearnedTask = True
    quick.widget.taskPart.show_learned()
    assert "read when Segment is pressed" in quick.ui.learnedTaskLabel.text
    assert quick.controller.learned is None and not quick.controller.link.is_busy
    assert quick.ui.segmentButton.enabled
    quick.ui.segmentButton.click()
    quick.wait(lambda: quick.status.is_running)
    quick.wait(lambda: quick.controller.is_idle)
    assert quick.status.state is State.DONE
    assert "liver" in quick.ui.learnedTaskLabel.text


def test_every_parameter_that_is_saved_is_read():
    text = "".join(
        path.read_text()
        for path in (Path(module.__file__), *Path(module.__file__).parent.glob("*Lib/**/*.py"))
    )
    ui = (Path(module.__file__).parent / "Resources" / "UI" / "OFLSAM2Slicer.ui").read_text()
    for name in module.OFLSAM2SlicerParameterNode.allParameters:
        read = re.search(rf"(chosen|parameters|_parameterNode)\.{name}\b(?! =)", text)
        assert read, f"{name} is saved and never read"
    assert "confidenceThreshold" in ui


def test_choices_are_saved_with_the_scene_but_the_workers_command_is_not(quick, scene, pairs):
    quick.option("magnification").value = 1.5
    quick.option("slicing_axis").setCurrentText("coronal")
    quick.ui.presetComboBox.setCurrentText("accurate")
    quick.ui.structuresTable.item(1, 0).setCheckState(QtCore.Qt.Unchecked)
    scene.SetSaveToXMLString(1)
    scene.Commit()
    xml = scene.GetSceneXMLString()
    assert "synthetic_worker" not in xml
    scene.Clear(False)
    assert quick.widget.optionsPart.options() == {}
    assert quick.option("magnification").value == 2.0
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(xml)
    scene.Connect()
    quick.widget.enter()
    assert quick.option("magnification").value == 1.5
    assert quick.parameters.target.GetName() == "patient"
    assert [p.volume_node.GetName() for p in quick.widget.supportPart.pairs] == ["case 1", "case 2"]
    chosen = {"preset": "accurate", "magnification": 1.5, "slicing_axis": "coronal"}
    assert quick.widget.optionsPart.options() == chosen
    quick.ui.resetOptionsButton.click()
    assert quick.widget.optionsPart.options() == {"preset": "accurate"}
    assert quick.option("magnification").value == 2.0


def test_a_learned_task_is_saved_loaded_and_used_without_support_cases(
    quick, target, tmp_path, monkeypatch
):
    quick.run()
    path = tmp_path / "liver"
    monkeypatch.setattr(QtWidgets.QFileDialog, "getSaveFileName", lambda *args: (str(path), ""))
    quick.ui.saveTaskButton.click()
    saved = path.with_suffix(".oflsam2")
    assert saved.is_file()
    quick.ui.forgetTaskButton.click()
    assert not quick.ui.saveTaskButton.enabled
    quick.ui.supportTable.selectAll()
    quick.ui.removeSupportButton.click()
    assert not quick.ui.segmentButton.enabled
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *args: (str(saved), ""))
    quick.ui.loadTaskButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert "liver, lesion" in quick.ui.learnedTaskLabel.text
    assert quick.run().state is State.DONE
    mask = segment_mask(quick.parameters.segmentation, "liver", target)
    assert np.array_equal(mask, case_arrays(4)[1])


def test_a_learned_task_is_not_replaced_by_a_name_that_was_typed_short(
    quick, tmp_path, monkeypatch
):
    quick.run()
    there = tmp_path / "liver.oflsam2"
    there.write_bytes(b"another task")
    short = str(tmp_path / "liver")
    monkeypatch.setattr(QtWidgets.QFileDialog, "getSaveFileName", lambda *args: (short, ""))
    double.messages.clear()
    double.answers[:] = [False]
    quick.ui.saveTaskButton.click()
    assert "exists already" in double.messages[0]
    assert there.read_bytes() == b"another task"
    double.answers[:] = [True]
    quick.ui.saveTaskButton.click()
    assert there.read_bytes() == quick.controller.learned.content.tobytes()
    assert list(tmp_path.glob(".writing*")) == []


def test_a_file_that_is_no_learned_task_is_refused_in_words(quick, tmp_path):
    wrong = tmp_path / "wrong.oflsam2"
    wrong.write_bytes(b"not a task")
    quick.widget.taskPart.load(str(wrong))
    quick.wait(lambda: quick.controller.is_idle)
    assert "This is no learned task." in quick.ui.learnedTaskLabel.text
    assert quick.controller.learned is None


def test_the_computer_is_looked_at_only_when_asked(quick):
    assert quick.ui.deviceComboBox.count == 2
    quick.ui.checkButton.click()
    quick.wait(lambda: quick.controller.is_idle)
    assert "PyTorch 2.13.0" in quick.ui.modelLabel.text
    assert "8.0 GB free" in quick.ui.deviceComboBox.itemText(1)


def test_terms_of_use_have_to_be_agreed_to_before_a_download(quick):
    from OFLSAM2Core.backbones.manifest import list_backbones

    restricted = [info.name for info in list_backbones() if info.terms]
    if not restricted:
        return
    box = quick.ui.backboneComboBox
    box.setCurrentIndex(box.findData(restricted[0]))
    double.messages.clear()
    double.answers[:] = [False]
    quick.ui.downloadButton.click()
    assert "Do you agree?" in double.messages[0]
    assert not quick.controller.link.is_busy


def test_headers_are_not_cut_however_long_the_names_are(quick, scene, pairs, tmp_path):
    def is_cut(column):
        header = table.horizontalHeader()
        return header.sectionSize(column) < header.sectionSizeHint(column)

    table = quick.ui.supportTable
    long = "T1 MPRAGE sagittal isotropic 2024-03-05 after contrast"
    scan = add_volume(scene, case_arrays(1)[0], long, OBLIQUE)
    empty = add_segmentation(scene, scan, {}, f"{long} segmentation")
    quick.picture(tmp_path / "short.png")
    quick.choose(quick.parameters.target, [(scan, empty)])
    quick.picture(tmp_path / "long.png")
    assert not any(is_cut(column) for column in (1, 2, 3))
    assert table.item(2, 1).toolTip() == long
    assert "has no structures" in table.item(2, 3).toolTip()


def test_every_dialog_that_asks_for_a_file_or_folder_has_the_main_window_as_parent(
    quick, monkeypatch
):
    window, parents = QtWidgets.QWidget(), []

    def nothing_chosen(parent, *_args):
        parents.append(parent)
        return ""

    monkeypatch.setattr(slicer.util, "mainWindow", lambda *_args: window, raising=False)
    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory"):
        monkeypatch.setattr(QtWidgets.QFileDialog, name, nothing_chosen)
    quick.run()  # so that there is a task to be saved, and to segment others with
    buttons = ("loadTask", "saveTask", "openCohort", "startCohort", "startSceneCohort", "localFile")
    for name in buttons:
        getattr(quick.ui, f"{name}Button").click()
    assert parents == [window] * len(buttons)
