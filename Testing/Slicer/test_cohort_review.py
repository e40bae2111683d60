"""A cohort in the panel: least sure first, case after case, and the verdict on each is kept."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pytest
import slicer
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.cohort_review import Cohort, reviewed_run, start_cohort
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP
from panels import synthetic_command
from PySide6 import QtCore
from scenes import (
    add_segmentation,
    add_volume,
    ball,
    load_segmentation,
    load_volume,
    segment_mask,
)
from slicer_double import application as double

from OFLSAM2Core.app.steps import run_steps
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.manifest import Manifest
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.reading import write_confidence, write_segmentation
from OFLSAM2Core.worker.client import worker_environment

SHAPE = (8, 20, 16)
AFFINE = np.diag([-0.9, -0.7, 2.5, 1.0])
LIVER = ball(SHAPE, (4, 10, 8), 3)
STRUCTURES = (Structure("liver", 1, (0.8, 0.3, 0.2)),)
SURE = {"a": 0.95, "b": 0.6, "c": 0.8}


@pytest.fixture
def folder(tmp_path):
    """Three cases that are segmented, one that failed, one that waits."""
    made = tmp_path / "livers"
    made.mkdir()
    with Manifest.create(made) as manifest:
        manifest.begin({"layout": "flat", "task": "0" * 64}, host="elsewhere", pid=1)
        for name in ("a", "b", "c", "d", "e"):
            image = Volume(np.where(LIVER, 100, 0).astype(np.int16), AFFINE, name)
            source = tmp_path / f"{name}.nrrd"
            write_confidence(source, image.array.astype(np.uint8), image)
            manifest.waiting(CaseInput(name, str(source)))
            if name in SURE:
                confidence = np.full(SHAPE, 250, np.uint8)
                confidence[5] = 120
                write_segmentation(
                    made / f"{name}.seg.nrrd", LIVER.astype(np.uint8), image, STRUCTURES
                )
                write_confidence(made / f"{name}_confidence.nrrd", confidence, image)
                outputs = {f"{name}.seg.nrrd": 1, f"{name}_confidence.nrrd": 1}
                structures = [{"name": "liver", "label": 1, "ml": 0.2, "confidence": SURE[name]}]
                state = "done" if SURE[name] > 0.7 else "doubtful"
                details = {"confidence": SURE[name], "structures": structures, "outputs": outputs}
                manifest.finished(name, state, {"reason": "", "state": state, **details})
        manifest.failed("d", "input", "'d' is damaged.", "Copy it again.")
    return made


@pytest.fixture
def files(scene, monkeypatch):
    """Loading and saving, which are the application's: by the core's readers."""

    def saveNode(node, path):
        mask = segment_mask(node, "liver", scene.GetFirstNodeByName("b"))
        volume = Volume(mask.astype(np.uint8), AFFINE, "b")
        write_segmentation(path, mask.astype(np.uint8), volume, STRUCTURES)
        return True

    monkeypatch.setattr(slicer.util, "loadVolume", load_volume, raising=False)
    monkeypatch.setattr(slicer.util, "loadSegmentation", load_segmentation, raising=False)
    monkeypatch.setattr(slicer.util, "saveNode", saveNode, raising=False)


@pytest.fixture
def panel(files, open_panel, folder):
    panel = open_panel(synthetic_command())
    panel.widget.cohortPart.open(str(folder))
    return panel


def go_on(panel, button):
    getattr(panel.ui, button).click()
    panel.wait(lambda: panel.controller.is_idle)


def loaded(panel):
    return panel.parameters.target.GetName()


def test_the_table_lists_the_least_sure_case_first_and_those_without_a_result_last(panel):
    table = panel.ui.cohortTable
    rows = [[table.item(row, column).text() for column in range(4)] for row in range(5)]
    assert [row[0] for row in rows] == ["b", "c", "a", "d", "e"]
    assert rows[0][1:] == ["doubtful", "0.60", "liver 0.2"]
    assert rows[3][1] == "failed" and table.item(3, 1).toolTip() == "'d' is damaged."
    assert panel.ui.cohortLabel.text == "livers: 3 of 5 cases segmented, 3 to be looked at."


def test_next_shows_the_least_sure_case_with_its_result_its_confidence_and_its_doubt(panel):
    go_on(panel, "nextCaseButton")
    assert loaded(panel) == "b"
    found = segment_mask(panel.parameters.segmentation, "liver", panel.parameters.target)
    assert np.array_equal(found, LIVER)
    display = panel.parameters.confidence.GetDisplayNode()
    assert display.GetUpperThreshold() == round(0.9 * 255)
    assert panel.ui.doubtfulTable.item(0, 0).text() == "6"
    assert panel.ui.doubtfulTable.currentRow() == 0
    assert panel.ui.editButton.enabled and panel.ui.reviewedButton.enabled


def test_a_verdict_is_kept_and_the_next_case_comes(panel, folder):
    go_on(panel, "nextCaseButton")
    go_on(panel, "acceptCaseButton")
    assert loaded(panel) == "c"
    assert panel.ui.doubtfulTable.currentRow() == 0
    assert slicer.mrmlScene.GetFirstNodeByName("b") is None
    go_on(panel, "rejectCaseButton")
    go_on(panel, "acceptCaseButton")
    assert not panel.ui.nextCaseButton.enabled
    kept = json.loads((folder / "reviews.json").read_text())
    assert kept == {"a": "accepted", "b": "accepted", "c": "rejected"}


def test_a_corrected_case_is_kept_beside_the_result_and_comes_back_corrected(panel, folder):
    go_on(panel, "nextCaseButton")
    erase_slice(panel)
    panel.wait(lambda: panel.ui.correctedLabel.text != "")
    assert panel.ui.correctedLabel.text == "1 slice corrected since the run: 5."
    go_on(panel, "saveCaseButton")
    assert loaded(panel) == "c"
    cohort = Cohort(folder)
    case = next(one for one in cohort.cases if one.name == "b")
    assert case.verdict == "corrected"
    panel.widget.cohortPart.load(case)
    panel.wait(lambda: panel.controller.is_idle)
    found = segment_mask(panel.parameters.segmentation, "liver", panel.parameters.target)
    assert not found[4].any() and np.array_equal(found[5], LIVER[5])


def erase_slice(panel, index=4):
    segment = panel.parameters.segmentation.GetSegmentation().GetNthSegment(0)
    geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))[index] = 0
    segment.Modified()


def verdicts(folder):
    reviews = folder / "reviews.json"
    return json.loads(reviews.read_text()) if reviews.exists() else {}


@pytest.mark.parametrize("button", ["acceptCaseButton", "rejectCaseButton", "nextCaseButton"])
def test_what_was_corrected_and_not_saved_is_asked_about_before_it_goes(panel, folder, button):
    go_on(panel, "nextCaseButton")
    erase_slice(panel)
    double.answers.append(False)
    go_on(panel, button)
    assert "'b' was changed since it was loaded; only Save correction" in double.messages[-1]
    assert loaded(panel) == "b" and not verdicts(folder)
    go_on(panel, "saveCaseButton")
    assert loaded(panel) == "c" and verdicts(folder) == {"b": "corrected"}


def test_nothing_is_asked_about_what_was_saved_or_not_changed(panel, folder):
    double.messages.clear()
    for button in ("nextCaseButton", "acceptCaseButton", "nextCaseButton", "nextCaseButton"):
        go_on(panel, button)
    go_on(panel, "saveCaseButton")
    assert double.messages == []


def test_a_segment_that_was_added_to_a_case_is_asked_about(panel):
    go_on(panel, "nextCaseButton")
    panel.parameters.segmentation.GetSegmentation().AddEmptySegment("", "cyst")
    double.answers.append(False)
    go_on(panel, "acceptCaseButton")
    assert loaded(panel) == "b"


def test_two_clicks_on_accept_accept_the_one_case_that_was_seen(panel, folder):
    go_on(panel, "nextCaseButton")
    panel.ui.acceptCaseButton.click()
    panel.ui.acceptCaseButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    assert loaded(panel) == "c" and verdicts(folder) == {"b": "accepted"}


def test_two_clicks_on_next_go_to_the_second_case(panel, scene):
    panel.ui.nextCaseButton.click()
    panel.ui.nextCaseButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    assert loaded(panel) == "c"
    assert scene.GetFirstNodeByName("b") is None


def test_a_case_is_not_judged_in_another_cohort_that_was_opened_meanwhile(panel, folder, tmp_path):
    go_on(panel, "nextCaseButton")
    other = shutil.copytree(folder, tmp_path / "others")
    panel.widget.cohortPart.open(str(other))
    assert not panel.ui.acceptCaseButton.enabled
    panel.ui.acceptCaseButton.click()
    assert not verdicts(other) and not verdicts(folder)
    assert loaded(panel) == "b"  # it stays in the scene, with what was drawn in it


def test_a_case_that_is_being_loaded_gives_way_to_a_run(panel, scene):
    image = add_volume(scene, np.where(LIVER, 100, 0).astype(np.int16), "patient", AFFINE)
    support = add_volume(scene, np.where(LIVER, 100, 0).astype(np.int16), "case", AFFINE)
    panel.choose(image, [(support, add_segmentation(scene, support, {"liver": LIVER}))])
    panel.ui.nextCaseButton.click()
    panel.ui.segmentButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    assert loaded(panel) == "patient" and panel.controller.run.target is image
    assert np.array_equal(segment_mask(panel.parameters.segmentation, "liver", image), LIVER)
    assert scene.GetFirstNodeByName("b") is None
    assert not panel.ui.acceptCaseButton.enabled


def test_the_cohort_is_open_again_when_slicer_is_started_again(panel, folder, open_panel):
    go_on(panel, "nextCaseButton")
    go_on(panel, "acceptCaseButton")
    setting = QtCore.QSettings().value("OFLSAM2/Cohort")
    panel.close()
    QtCore.QSettings().setValue("OFLSAM2/Cohort", setting)
    again = open_panel(synthetic_command())
    assert again.ui.cohortTable.item(0, 1).text() == "accepted"
    go_on(again, "nextCaseButton")
    assert loaded(again) == "c"


def test_a_folder_that_holds_no_cohort_is_refused_in_words(panel, tmp_path):
    with pytest.raises(InputError, match="no manifest"):
        Cohort(tmp_path)
    panel.widget.cohortPart.open(str(tmp_path))
    assert "no manifest" in panel.ui.messageLabel.text
    assert panel.ui.cohortTable.rowCount == 5


def test_a_cohort_is_worked_through_by_a_process_of_a_session_of_its_own(tmp_path):
    process = start_cohort(
        [sys.executable],
        worker_environment(os.environ),
        [str(tmp_path / "nothing")],
        tmp_path / "no.oflsam2",
        tmp_path / "out",
    )
    if os.name == "posix":  # closing Slicer, or its terminal, does not end it
        assert os.getsid(process.pid) != os.getsid(0)
    assert process.wait(120) == 2  # there is no volume: an answer, not an error
    assert "There is no file or folder" in (tmp_path / "out-cohort.log").read_text()


def test_a_worker_on_another_computer_cannot_work_through_folders_of_this_one(panel, tmp_path):
    panel.ui.workerCommandLineEdit.text = "ssh gpu-host oflsam2 worker"
    panel.ui.workerCommandLineEdit.editingFinished.emit()
    panel.widget.cohortPart.start(str(tmp_path), tmp_path / "out")
    assert "needs a Python on this computer" in panel.ui.messageLabel.text


@pytest.mark.parametrize(
    ("spacing", "axis"), [((1, 1, 1), 0), ((1, 1, 3), 0), ((3, 1, 1), 2), ((1, 3, 1.0001), 1)]
)
def test_a_result_is_reviewed_in_the_slices_that_are_thickest_or_that_it_is_stored_in(
    scene, spacing, axis
):
    volume = add_volume(scene, LIVER.astype(np.int16), "patient", np.diag([*spacing, 1.0]))
    node = add_segmentation(scene, volume, {"liver": LIVER})
    run = run_steps(reviewed_run(volume, node, None))
    assert {scored.axis for scored in run.scores.all()} == {axis}
