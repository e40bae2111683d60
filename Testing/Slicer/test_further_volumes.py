"""Second and third volumes of each patient, as a user chooses them in the panel."""

from __future__ import annotations

import types

import numpy as np
import pytest
import slicer
from OFLSAM2SlicerLib.cases import SupportPair
from OFLSAM2SlicerLib.effect_registration import register_effect
from OFLSAM2SlicerLib.support_list import SupportList
from panels import synthetic_command
from PySide6 import QtGui
from scenes import (
    OBLIQUE,
    add_segmentation,
    add_volume,
    ball,
    load_segmentation,
    load_volume,
    segment_mask,
)

from OFLSAM2Core.app.states import State
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.manifest import Manifest
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.reading import write_confidence, write_segmentation

SHAPE = (12, 20, 16)
LIVER, LESION = ball(SHAPE, (6, 10, 8), 5), ball(SHAPE, (6, 10, 8), 2)


def add_patient(scene, name, shift=0):
    """T1 and T2, whose sum is 100 in the liver and 200 in the lesion; neither tells by itself."""
    liver, lesion = (np.roll(mask, shift, axis=1) for mask in (LIVER, LESION))
    t1, t2 = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.int16)
    t1[liver], t2[liver] = 30, 70
    t2[lesion] = 170
    volumes = (
        add_volume(scene, t1, f"{name} T1", OBLIQUE),
        add_volume(scene, t2, f"{name} T2", OBLIQUE),
    )
    return (*volumes, {"liver": liver & ~lesion, "lesion": lesion})


@pytest.fixture
def support(scene):
    """T1, labels and T2 of two cases."""
    found = []
    for number in (1, 2):
        t1, t2, masks = add_patient(scene, f"case {number}", number)
        found.append((t1, add_segmentation(scene, t1, masks, f"case {number} seg"), t2))
    return found


@pytest.fixture
def target(scene):
    """T1 and T2."""
    return add_patient(scene, "patient", 3)[:2]


@pytest.fixture
def panel(open_panel, support, target):
    """The first volumes are chosen."""
    panel = open_panel(synthetic_command())
    panel.choose(target[0], [(t1, labels) for t1, labels, _ in support])
    return panel


def choose_further(panel, support, target):
    """As a user does, row by row."""
    panel.ui.targetSecondSelector.setCurrentNode(target[1])
    for row, (_t1, _labels, t2) in enumerate(support):
        panel.click_support(row)
        panel.ui.supportSecondSelector.setCurrentNode(t2)


def labels_of(segmentation, volume):
    return {name: segment_mask(segmentation, name, volume) for name in ("liver", "lesion")}


def test_a_run_sees_the_volumes_that_were_chosen_and_gives_what_the_console_gives(
    panel, support, target, scene
):
    choose_further(panel, support, target)
    cells = [panel.ui.supportTable.item(row, 1) for row in range(2)]
    assert [cell.text() for cell in cells] == ["case 1 T1 + 1 more", "case 2 T1 + 1 more"]
    assert cells[1].toolTip() == "case 2 T1 + case 2 T2"
    assert panel.run().state is State.DONE
    found = labels_of(panel.parameters.segmentation, target[0])
    segmentation = panel.logic.segment(
        target[0], support, furtherVolumes=[target[1]], workerCommand=synthetic_command()
    )
    console = labels_of(segmentation, target[0])
    truth = {"liver": LIVER & ~LESION, "lesion": LESION}
    for name, mask in truth.items():
        assert np.array_equal(found[name], np.roll(mask, 3, axis=1))
        assert np.array_equal(console[name], found[name])


def test_without_them_the_same_volumes_do_not_tell(panel, target):
    panel.run()
    assert not segment_mask(panel.parameters.segmentation, "lesion", target[0]).any()


def test_another_number_of_volumes_is_told_before_anything_is_learned(panel, support, target):
    def told():
        assert not panel.ui.segmentButton.enabled
        return panel.ui.messageLabel.text

    panel.ui.furtherCollapsibleButton.collapsed = True
    panel.click_support(0)
    panel.ui.supportSecondSelector.setCurrentNode(support[0][2])
    assert "'case 2 T1' is one volume, and 'case 1 T1' is 2 co-registered volumes" in told()
    assert not panel.ui.furtherCollapsibleButton.collapsed
    panel.click_support(1)
    panel.ui.supportSecondSelector.setCurrentNode(support[1][2])
    assert "'patient T1' is one volume, and each support case is 2 co-registered" in told()
    panel.ui.targetSecondSelector.setCurrentNode(target[1])
    assert panel.ui.segmentButton.enabled
    panel.ui.targetThirdSelector.setCurrentNode(support[0][2])
    assert "'patient T1' is 3 co-registered volumes, and each support case is 2" in told()
    assert "too many" in told()


def test_a_learned_task_of_two_volumes_wants_two(panel, support, target, scene):
    choose_further(panel, support, target)
    panel.run()
    assert "It wants 2 volumes of each patient." in panel.ui.learnedTaskLabel.text
    following, second, _ = add_patient(scene, "next", 1)
    panel.ui.learnedTaskCheckBox.checked = True
    panel.ui.targetSelector.setCurrentNode(following)
    assert "each case of the learned task is 2" in panel.ui.messageLabel.text
    assert not panel.ui.segmentButton.enabled
    assert not panel.ui.supportSecondSelector.enabled
    panel.ui.targetSecondSelector.setCurrentNode(second)
    assert panel.run().state is State.DONE
    found = segment_mask(panel.parameters.segmentation, "lesion", following)
    assert np.array_equal(found, np.roll(LESION, 1, axis=1))


def test_the_next_patient_is_not_seen_together_with_the_volumes_of_the_one_before(
    panel, support, target, scene
):
    choose_further(panel, support, target)
    following = add_patient(scene, "next", 1)[0]
    panel.ui.targetSelector.setCurrentNode(following)
    assert panel.ui.targetSecondSelector.currentNode() is None
    assert "'next T1' is one volume" in panel.ui.messageLabel.text
    panel.ui.targetSelector.setCurrentNode(target[0])
    assert panel.ui.targetSecondSelector.currentNode() is target[1]
    assert panel.ui.segmentButton.enabled


def test_a_third_can_be_chosen_once_there_is_a_second(panel, target, support):
    ui = panel.ui
    assert ui.targetSecondSelector.enabled and not ui.targetThirdSelector.enabled
    ui.targetSecondSelector.setCurrentNode(target[1])
    ui.targetThirdSelector.setCurrentNode(support[0][2])
    assert len(panel.widget.furtherPart.of_target()) == 2
    ui.targetSecondSelector.setCurrentNode(None)  # The third takes its place.
    assert ui.targetSecondSelector.currentNode() is support[0][2]
    assert ui.targetThirdSelector.currentNode() is None


def test_a_volume_twice_in_a_case_is_refused_by_name(panel, support, target):
    panel.click_support(0)
    panel.ui.supportSecondSelector.setCurrentNode(support[0][0])
    text = panel.ui.supportTable.item(0, 3).text()
    assert "'case 1 T1' is given twice as a volume of one case" in text
    with pytest.raises(InputError, match="'patient T1' is given twice"):
        panel.logic.segment(target[0], support, furtherVolumes=[target[0]])


def test_a_method_that_sees_one_volume_is_told_with_what_to_do(panel, support, target):
    choose_further(panel, support, target)
    panel.ui.methodComboBox.setCurrentText("atlas")
    assert not panel.ui.segmentButton.enabled
    assert "'atlas' sees one volume of a patient" in panel.ui.messageLabel.text


def test_they_are_saved_with_the_scene(panel, support, target, scene):
    choose_further(panel, support, target)
    scene.SetSaveToXMLString(1)
    scene.Commit()
    xml = scene.GetSceneXMLString()
    scene.Clear(False)
    assert panel.widget.furtherPart.of_target() == ()
    scene.SetLoadFromXMLString(1)
    scene.SetSceneXMLString(xml)
    scene.Connect()
    panel.widget.enter()
    (second,) = panel.widget.furtherPart.of_target()
    assert second.GetName() == "patient T2" and second is not target[1]
    names = [pair.volumes_in_words for pair in panel.widget.supportPart.pairs]
    assert names == ["case 1 T1 + case 1 T2", "case 2 T1 + case 2 T2"]
    assert panel.ui.targetSecondSelector.currentNode() is second


def test_a_further_volume_that_is_deleted_is_missed(panel, support, target, scene):
    choose_further(panel, support, target)
    scene.RemoveNode(target[1])
    assert "'patient T1' is one volume" in panel.ui.messageLabel.text
    scene.RemoveNode(support[1][2])
    assert panel.ui.supportTable.item(1, 1).text() == "case 2 T1"
    assert not panel.ui.segmentButton.enabled


def test_pairs_that_are_listed_already_keep_their_further_volumes(panel, support, target):
    choose_further(panel, support, target)
    panel.ui.addAllButton.click()
    assert [pair.volume_count for pair in panel.widget.supportPart.pairs] == [2, 2]
    listed = SupportList(panel.parameters.parameterNode)
    t1, labels, _ = support[0]
    assert listed.add([SupportPair(t1, labels)]) == 0
    listed.remove([0])
    assert [pair.volumes_in_words for pair in listed.pairs()] == ["case 2 T1 + case 2 T2"]


def test_a_reviewed_volume_joins_the_support_with_all_its_volumes(panel, support, target):
    choose_further(panel, support, target)
    panel.run()
    panel.ui.reviewedButton.click()
    panel.ui.addToSupportButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    assert "'patient T1'" in panel.ui.messageLabel.text
    pairs = panel.widget.supportPart.pairs
    assert pairs[-1].further_nodes == (target[1],)
    assert panel.controller.learned.volume_count == 2


def test_corrections_are_learned_from_with_all_volumes(panel, support, target):
    choose_further(panel, support, target)
    panel.run()
    output = panel.parameters.segmentation
    panel.controller.link.close()  # The worker that begins anew is sent the volumes again.
    lesion = output.GetSegmentation().GetSegmentIdBySegmentName("lesion")
    mask = slicer.util.arrayFromSegmentInternalBinaryLabelmap(output, lesion)
    segment = output.GetSegmentation().GetSegment(lesion)
    mask[6][mask[6] == segment.GetLabelValue()] = 0
    segment.Modified()
    panel.wait(lambda: panel.ui.correctedLabel.text != "")
    panel.ui.learnCorrectionsButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    assert panel.status.state is State.DONE, panel.status
    assert not segment_mask(output, "lesion", target[0]).any()
    liver = np.roll(LIVER & ~LESION, 3, axis=1)
    found = segment_mask(output, "liver", target[0])
    assert np.array_equal(found[:6], liver[:6]) and np.array_equal(found[7:], liver[7:])


def test_the_panel_with_them_unfolded_says_what_they_are_and_folded_stays_short(
    panel, support, target, tmp_path
):
    assert panel.ui.furtherCollapsibleButton.collapsed
    panel.picture(tmp_path / "folded.png")
    assert QtGui.QImage(str(tmp_path / "folded.png")).height() < 900
    panel.click_support(1)
    assert "'case 2 T1'" in panel.ui.supportFurtherLabel.text


# Elsewhere in the module


def test_the_scene_is_not_queued_for_a_task_of_two_volumes(panel, support, target, tmp_path):
    choose_further(panel, support, target)
    panel.run()
    panel.widget.cohortPart.start_scene(tmp_path)
    assert "cases of 2 co-registered volumes" in panel.ui.messageLabel.text
    assert "nnU-Net" in panel.ui.messageLabel.text
    assert not list(tmp_path.glob("scene-*"))


@pytest.fixture
def effect(panel, support, target, scene):
    """The Segment Editor's effect on an empty segment, with a task of two volumes."""
    choose_further(panel, support, target)
    panel.run()
    module = slicer.modules.oflsam2slicer
    module.widgetRepresentation = lambda: types.SimpleNamespace(self=lambda: panel.widget)
    edited = add_segmentation(scene, target[0], {"lesion": LESION & False}, "edited")
    effect = register_effect()
    effect.edit(edited, target[0], "lesion")
    yield effect, edited
    del module.widgetRepresentation


def press_all(effect, panel):
    effect.self().allButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    return effect.self().messageLabel.text


def test_the_effect_predicts_from_the_volumes_that_the_panel_has_of_it(effect, panel, target):
    effect, edited = effect
    assert press_all(effect, panel) == ""
    found = segment_mask(edited, "lesion", target[0])
    assert np.array_equal(found, np.roll(LESION, 3, axis=1))


def test_the_effect_says_what_to_do_where_the_panel_has_none(effect, panel, target):
    effect, edited = effect
    panel.ui.targetSecondSelector.setCurrentNode(None)
    text = press_all(effect, panel)
    assert "'patient T1' is one volume, and each case of the learned task is 2" in text
    assert "in the part More volumes" in text and "In the module OFL-SAM2" in text
    assert not segment_mask(edited, "lesion", target[0]).any()


def test_a_case_of_a_cohort_is_loaded_with_all_its_volumes(
    open_panel, scene, tmp_path, monkeypatch
):
    folder = tmp_path / "livers"
    folder.mkdir()
    structures = (Structure("liver", 1),)
    affine = np.diag([-0.9, -0.7, 2.5, 1.0])
    sources = []
    for name in ("t1", "t2"):
        sources.append(str(tmp_path / f"{name}.nrrd"))
        write_confidence(sources[-1], LIVER.astype(np.uint8), Volume(LIVER, affine, name))
    with Manifest.create(folder) as manifest:
        manifest.begin({"layout": "flat", "task": "0" * 64}, host="elsewhere", pid=1)
        for name in ("p", "q"):
            manifest.waiting(CaseInput(name, sources[0], (sources[1],)))
            path = folder / f"{name}.seg.nrrd"
            write_segmentation(path, LIVER.astype(np.uint8), Volume(LIVER, affine), structures)
            details = {"confidence": 0.9, "structures": [], "outputs": {path.name: 1}}
            manifest.finished(name, "done", {"reason": "", **details})
    monkeypatch.setattr(slicer.util, "loadVolume", load_volume, raising=False)
    monkeypatch.setattr(slicer.util, "loadSegmentation", load_segmentation, raising=False)
    panel = open_panel(synthetic_command())
    panel.widget.cohortPart.open(str(folder))
    panel.ui.nextCaseButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    assert panel.parameters.target.GetName() == "p"
    (second,) = panel.widget.furtherPart.of_target()
    assert second.GetName() == "p (2)"
    assert panel.controller.run.volume(0).volume_count == 2
    panel.ui.acceptCaseButton.click()
    panel.wait(lambda: panel.controller.is_idle)
    assert panel.parameters.target.GetName() == "q"
    assert scene.GetFirstNodeByName("p (2)") is None
