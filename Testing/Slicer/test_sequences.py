"""Sequences: volume after volume, or an image sequence as one stack of slices."""

from __future__ import annotations

import numpy as np
import pytest
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.scene_nodes import nodes_of_class
from OFLSAM2SlicerLib.sequences import run_for
from panels import Panel, synthetic_command
from scenes import OBLIQUE, add_segmentation, add_volume, ball, segment_mask

from OFLSAM2Core.app.states import State
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError

SHAPE = (6, 20, 16)


def add_sequence(scene, arrays, name="beating heart", class_name="vtkMRMLScalarVolumeNode"):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for number, array in enumerate(arrays):
        volume = add_volume(scene, array, "frame", OBLIQUE, class_name)
        sequence.SetDataNodeAtValue(volume, str(number))
        scene.RemoveNode(volume)
    return sequence


def frame(radius):
    image = np.zeros(SHAPE, np.int16)
    mask = ball(SHAPE, (3, 10, 8), radius)
    image[mask] = 100
    return image, mask


def stored_masks(sequence, volume_node):
    found = []
    for number in range(sequence.GetNumberOfDataNodes()):
        node = sequence.GetNthDataNode(number)
        found.append(segment_mask(node, "heart", volume_node))
    return found


def sequences_of_segmentations(scene):
    return [
        node
        for node in nodes_of_class(scene, "vtkMRMLSequenceNode")
        if node.GetNthDataNode(0).IsA("vtkMRMLSegmentationNode")
    ]


def test_each_frame_of_a_volume_sequence_is_segmented_and_follows_the_browser(scene, open_panel):
    radii = (2, 3, 4)
    sequence = add_sequence(scene, [frame(radius)[0] for radius in radii])
    image, mask = frame(3)
    support = add_volume(scene, image, "support", OBLIQUE)
    labels = add_segmentation(scene, support, {"heart": mask})
    panel: Panel = open_panel(synthetic_command())
    panel.choose(sequence, [(support, labels)])
    status = panel.run()
    assert status.state is State.DONE
    assert status.slices_done == 3 * SHAPE[0]
    run = panel.controller.run
    stored = scene.GetFirstNodeByName("beating heart segmentation sequence")
    assert stored.GetIndexName() == "time"
    for found, radius in zip(stored_masks(stored, run.target), radii, strict=True):
        assert np.array_equal(found, frame(radius)[1])
    browser = scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
    assert browser.GetProxyNode(stored) is panel.parameters.segmentation
    browser.SetSelectedItemNumber(0)
    # Nothing else is made to show them with.
    made = nodes_of_class(scene, "vtkMRMLSegmentationNode")
    assert made == [labels, panel.parameters.segmentation]
    volumes = nodes_of_class(scene, "vtkMRMLScalarVolumeNode")
    assert set(volumes) == {support, run.target, panel.parameters.confidence}
    found = segment_mask(panel.parameters.segmentation, "heart", run.target)
    assert np.array_equal(found, frame(2)[1])


def test_slices_of_every_frame_are_listed_and_a_click_shows_the_frame(scene, open_panel):
    sequence = add_sequence(scene, [frame(radius)[0] for radius in (2, 3, 4)])
    image, mask = frame(3)
    support = add_volume(scene, image, "support", OBLIQUE)
    labels = add_segmentation(scene, support, {"heart": mask})
    panel: Panel = open_panel(synthetic_command())
    panel.choose(sequence, [(support, labels)])
    panel.run()
    scores = panel.controller.run.scores
    places = [(one.frame, one.index) for one in scores.all()]
    assert places == [(number, index) for number in range(3) for index in range(SHAPE[0])]
    browser = scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
    table = panel.ui.doubtfulTable
    first = [table.item(row, 0).text() for row in range(table.rowCount)]
    for row, one in enumerate(scores.most_doubtful(table.rowCount)):
        assert first[row] == f"{one.frame + 1}: {one.index + 1}"
        table.cellClicked.emit(row, 0)
        assert browser.GetSelectedItemNumber() == one.frame
    node = scene.AddNewNodeByClass("vtkMRMLTableNode", "scores")
    scores.write_table(node)
    assert [node.GetCellText(row, 0) for row in (0, SHAPE[0])] == ["0", "1"]
    assert node.GetColumnName(1) == "Slice"


def test_a_slice_of_an_image_sequence_is_a_frame(scene):
    sequence = add_sequence(scene, [frame(3)[0][index : index + 1] for index in range(SHAPE[0])])
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    run = run_for(sequence, output)
    list(run.begin(0, [Structure("heart", 1)]))
    labels = frame(3)[1][4].astype(np.uint8)
    run.add(SliceResult(4, 0, labels, np.full_like(labels, 100), {"heart": 0.4}))
    browser = scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetSelectedItemNumber(1)
    run.show_slice(run.scores.most_doubtful()[0])
    assert browser.GetSelectedItemNumber() == 4
    # The views go to the middle of what is labelled, in the only slice that the frame's volume has.
    volume = browser.GetProxyNode(sequence)
    place = np.array([8.0, 10.0, 0.0, 1.0])
    world = (geometry.volume_to_local(volume) @ place)[:3]
    views = nodes_of_class(scene, "vtkMRMLSliceNode")
    assert views
    for view in views:
        matrix = geometry.matrix_to_array(view.GetSliceToRAS())
        assert abs(matrix[:3, 2] @ (world - matrix[:3, 3])) < 0.5


@pytest.mark.parametrize("slices", [SHAPE[0], 1])
def test_undo_takes_back_every_frame_and_leaves_what_was_there(scene, open_panel, slices):
    frames = [frame(radius)[0][:slices] for radius in (2, 3, 4)]
    sequence = add_sequence(scene, frames)
    image, mask = frame(3)
    support = add_volume(scene, image, "support", OBLIQUE)
    labels = add_segmentation(scene, support, {"heart": mask})
    panel: Panel = open_panel(synthetic_command())
    panel.choose(sequence, [(support, labels)])
    first = add_volume(scene, frames[0], "first", OBLIQUE)
    own = np.zeros(frames[0].shape, bool)
    own[0, :3, :3] = True
    output = add_segmentation(scene, first, {"my own": own})
    panel.parameters.segmentation = output
    assert panel.run().state is State.DONE
    assert len(sequences_of_segmentations(scene)) == 1
    panel.ui.undoButton.click()
    assert sequences_of_segmentations(scene) == []
    browser = scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
    for number in range(3):
        browser.SetSelectedItemNumber(number)
        assert output.GetSegmentation().GetSegmentIDs() == ("my own",)
        assert np.array_equal(segment_mask(output, "my own", first), own)


def test_slices_of_the_frame_that_was_cancelled_are_kept(scene):
    sequence = add_sequence(scene, [frame(radius)[0] for radius in (2, 4)])
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    run = run_for(sequence, output)
    masks = [frame(radius)[1] for radius in (2, 4)]
    for number, slices in ((0, SHAPE[0]), (1, 4)):
        run.volume(number)
        list(run.begin(number, [Structure("heart", 1)]))
        for index in range(slices):
            labels = masks[number][index].astype(np.uint8)
            run.add(SliceResult(index, 0, labels, np.full_like(labels, 200), {}))
        if number == 0:
            list(run.end(0))
    list(run.finish(complete=False))
    kept = masks[1].copy()
    kept[4:] = False
    assert np.array_equal(segment_mask(output, "heart", run.target), kept)
    stored = stored_masks(scene.GetFirstNodeByName("output sequence"), run.target)
    assert np.array_equal(stored[0], masks[0])
    assert np.array_equal(stored[1], kept)


@pytest.mark.parametrize("colour", [False, True])
def test_an_image_sequence_is_one_stack_of_slices(scene, colour):
    rng = np.random.default_rng(0)
    size = (1, 12, 10, 3) if colour else (1, 12, 10)
    kind = "vtkMRMLVectorVolumeNode" if colour else "vtkMRMLScalarVolumeNode"
    frames = [rng.integers(0, 255, size, np.uint8) for _ in range(5)]
    sequence = add_sequence(scene, frames, "video", kind)
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    run = run_for(sequence, output)
    assert run.frame_count == 1
    list(run.begin(0, [Structure("heart", 1)]))
    volume = run.volume(0)
    assert volume.array.shape == (5, *size[1:])
    assert all(np.array_equal(volume.array[i], frames[i][0]) for i in range(5))
    labels = rng.integers(0, 2, (5, 12, 10)).astype(np.uint8)
    for index in (3, 1, 0, 2, 4):
        run.add(SliceResult(index, 0, labels[index], np.full((12, 10), 200, np.uint8), {}))
    list(run.end(0))
    list(run.finish(complete=True))
    stored = scene.GetFirstNodeByName("output sequence")
    for found, expected in zip(stored_masks(stored, run.target), labels, strict=True):
        assert np.array_equal(found[0], expected)


def test_a_sequence_without_volumes_is_refused_by_name(scene):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "transforms")
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    with pytest.raises(InputError, match="'transforms' does not hold volumes"):
        run_for(sequence, output)
