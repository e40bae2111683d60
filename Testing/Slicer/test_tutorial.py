"""The tutorial, step by step, as a user with the sample data goes through it; the worker tells
structures by their brightness. What the tutorial and the README name and quote is there."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import slicer
from OFLSAM2SlicerLib import geometry, sample_data
from OFLSAM2SlicerLib.effect_registration import register_effect
from OFLSAM2SlicerLib.scene_nodes import nodes_of_class
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP
from panels import SYNTHETIC, application, module, synthetic_command
from PySide6 import QtCore, QtWidgets
from scenes import add_segmentation, load_volume, segment_mask

from OFLSAM2Core.app.states import State

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "slicer-tutorial.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PARTS = [sample_data.sample_structures()[number].name for number in range(2)]


def load_label_volume(path):
    node = load_volume(path, {"name": "labels"})
    array, affine = slicer.util.arrayFromVolume(node), geometry.volume_to_local(node)
    slicer.mrmlScene.RemoveNode(node)
    from scenes import add_volume

    kind = "vtkMRMLLabelMapVolumeNode"
    return add_volume(slicer.mrmlScene, array.astype(np.int16), "labels", affine, kind)


@pytest.fixture
def files(scene, monkeypatch):
    """Reading files is the application's: here by the core's readers."""
    monkeypatch.setattr(slicer.util, "loadVolume", load_volume, raising=False)
    monkeypatch.setattr(slicer.util, "loadLabelVolume", load_label_volume, raising=False)


@pytest.fixture
def sample(files):
    """Step 2: the button Hippocampus of the module Sample Data."""
    slicer.modules.sampleDataSources = {}
    slicer.modules.sampleDataSourceCategories = {}
    module.OFLSAM2Slicer(types.SimpleNamespace(path=slicer.modules.oflsam2slicer.path))
    slicer.app.emit("startupCompleted()")
    (source,) = slicer.modules.sampleDataSources[sample_data.CATEGORY]
    *support, target = source.customDownloader(source)
    yield support, target
    slicer.app = type(slicer.app)()


def erase(node, index):
    segment = node.GetSegmentation().GetNthSegment(0)
    plane = geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))[index]
    plane[plane == segment.GetLabelValue()] = 0
    segment.Modified()


def finish(panel):
    panel.wait(lambda: panel.controller.is_idle)
    return panel.status.state


def test_from_the_sample_data_to_the_next_patient(sample, scene, open_panel, tmp_path, monkeypatch):
    support, target = sample
    assert len(support) == 3 and target.GetName() == "hippocampus_006"
    panel = open_panel(synthetic_command())
    ui = panel.ui
    # 3. Pick the volume and the support cases
    ui.targetSelector.setCurrentNode(target)
    ui.addAllButton.click()
    assert [ui.supportTable.item(row, 3).text() for row in range(3)] == ["fine"] * 3
    assert [ui.structuresTable.item(row, 0).text() for row in range(2)] == PARTS
    # 4. Segment
    for view in nodes_of_class(scene, "vtkMRMLSliceCompositeNode"):
        view.SetBackgroundVolumeID(target.GetID())
    ui.segmentButton.click()
    assert ui.segmentButton.text == "Cancel"
    assert finish(panel) is State.DONE
    output = panel.parameters.segmentation
    assert "to learn on this computer" in ui.expectedTimeLabel.text
    # 5. Review
    assert ui.doubtfulTable.rowCount > 0
    panel.widget.reviewPart.go(1)
    foreground = nodes_of_class(scene, "vtkMRMLSliceCompositeNode")[0].GetForegroundVolumeID()
    assert foreground == panel.parameters.confidence.GetID()
    ui.show3DButton.click()
    assert output.GetSegmentation().ContainsRepresentation("Closed surface")
    ui.editButton.click()
    assert slicer.modules.segmenteditor.segmentation is output
    # 6. Correct, and let it learn from that; and back
    before = segment_mask(output, PARTS[0], target)
    for index in (8, 11, 14):
        erase(output, index)
    panel.wait(lambda: "3 slices corrected since the run: 9, 12, 15." in ui.correctedLabel.text)
    finish(panel)
    ui.learnCorrectionsButton.click()
    assert finish(panel) is State.DONE
    assert not segment_mask(output, PARTS[0], target)[8].any()
    ui.undoButton.click()
    finish(panel)
    found = segment_mask(output, PARTS[0], target)
    assert not found[8].any() and np.array_equal(found[9], before[9])
    # 7. The next patient
    ui.reviewedButton.click()
    ui.addToSupportButton.click()
    finish(panel)
    assert ui.supportTable.rowCount == 4
    path = tmp_path / "hippocampus.oflsam2"
    monkeypatch.setattr(QtWidgets.QFileDialog, "getSaveFileName", lambda *_args: (str(path), ""))
    ui.saveTaskButton.click()
    ui.forgetTaskButton.click()
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_args: (str(path), ""))
    ui.loadTaskButton.click()
    finish(panel)
    ui.targetSelector.setCurrentNode(target)
    assert ui.learnedTaskCheckBox.checked and panel.run().state is State.DONE
    assert panel.parameters.segmentation is not output
    # 9. In the Segment Editor
    widget = types.SimpleNamespace(self=lambda: panel.widget)
    monkeypatch.setattr(
        slicer.modules.oflsam2slicer, "widgetRepresentation", lambda: widget, raising=False
    )
    edited = add_segmentation(scene, target, {PARTS[0]: before & False}, "edited")
    effect = register_effect()
    effect.edit(edited, target, PARTS[0])
    effect.self().allButton.click()
    finish(panel)
    assert np.array_equal(segment_mask(edited, PARTS[0], target), before)


def python_blocks(text):
    return re.findall(r"```python\n(from OFLSAM2Slicer import.*?)```", text, re.DOTALL)


@pytest.mark.skipif(os.name != "posix", reason="PythonSlicer is a shell script here")
@pytest.mark.parametrize("text", [README, TUTORIAL], ids=["README", "tutorial"])
def test_what_is_written_for_the_python_console_runs(
    files, settings_file, text, tmp_path, monkeypatch, capsys
):
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{SYNTHETIC}'\n")
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    (block,) = python_blocks(text)
    names: dict[str, object] = {"slicer": slicer}  # as the console has it
    try:
        exec(block, names)
        segmentation, target = names["segmentation"], names["target"]
        assert segment_mask(segmentation, PARTS[0], target).any()
        if "wait=False" in block:
            printed = ""
            for _ in range(2000):
                application.processEvents()
                QtCore.QThread.msleep(5)
                printed += capsys.readouterr().out
                if "done " in printed:
                    break
            assert "done 34 slices segmented." in printed
            assert (tmp_path / "hippocampus.oflsam2").is_file()
    finally:
        module.OFLSAM2SlicerLogic().shutDown()


def test_what_the_tutorial_names_is_in_the_panel():
    ui = (ROOT / "OFLSAM2Slicer" / "Resources" / "UI" / "OFLSAM2Slicer.ui").read_text(
        encoding="utf-8"
    )
    texts = re.findall(r"<string>([^<]*)</string>", ui.replace("&quot;", '"').replace("&amp;", "&"))
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "OFLSAM2Slicer").rglob("*.py")
        if path.is_file()
    )
    elsewhere = {"OFL-SAM2", "OFLSAM2", "PyTorch", "Hippocampus", "N", "P"}
    named = set(re.findall(r"\*\*([^*]+)\*\*", TUTORIAL)) - elsewhere
    named.discard("Research software. Not for clinical use.")
    assert len(named) > 20
    for name in named:
        there = any(text.startswith(name) for text in texts) or f'_("{name}")' in code
        assert there, f"The tutorial names '{name}', which the panel has not."


def test_the_messages_that_the_tutorial_explains_are_those_of_the_code():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", TUTORIAL, re.MULTILINE)
    quoted = rows[rows.index("The panel says") + 1 :] if "The panel says" in rows else []
    assert len(quoted) > 6
    folders = (ROOT / "OFLSAM2Slicer", ROOT / "OFLSAM2Core")
    code = "\n".join(
        path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py")
    )
    # Strings that go over several lines, and what is filled in, as "...".
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    code = re.sub(r"\{[^{}]*\}", "...", code)
    for message in quoted:
        message = re.sub(
            r"one volume|\d+ co-registered volumes|each support case|closed surface", "...", message
        )
        pieces = [piece.strip(" ,") for piece in re.split(r"\.\.\.|\d+", message)]
        for piece in (piece for piece in pieces if len(piece) > 3):
            assert piece in code, f"'{piece}' of '{message}' is no message of the panel."
