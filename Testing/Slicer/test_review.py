"""Confidence in the slice views, the slices to look at first, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.confidence import (
    ConfidenceOverlay,
    ConfidenceWriter,
    new_confidence_node,
    show_only_below,
)
from OFLSAM2SlicerLib.review import (
    SliceScores,
    jump_to,
    offset_in_words,
    slice_center_in_world,
)
from OFLSAM2SlicerLib.scene_nodes import nodes_of_class, place_beside
from OFLSAM2SlicerLib.segmentation_writer import SegmentationWriter
from OFLSAM2SlicerLib.undo import UndoSnapshot
from scenes import OBLIQUE, add_segmentation, add_volume, ball, segment_mask

from OFLSAM2Core.app.steps import run_steps
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure

SHAPE = (12, 20, 16)
MASK = ball(SHAPE, (6, 10, 8), 5)


def result(index, scores, axis=0, confidence=200):
    plane = np.take(MASK, index, axis).astype(np.uint8)
    values = np.full(plane.shape, confidence, np.uint8)
    return SliceResult(index, axis, plane, values, scores)


def visible_image(display_node):
    connection = display_node.GetImageDataConnection()
    connection.GetProducer().Update()
    return connection.GetProducer().GetOutputDataObject(connection.GetIndex())


@pytest.fixture
def volume(scene):
    return add_volume(scene, np.zeros(SHAPE, np.int16), "target", OBLIQUE)


def test_confidence_fills_slice_by_slice_and_zero_means_not_yet(volume):
    node = new_confidence_node(volume)
    writer = ConfidenceWriter(node, volume)
    run_steps(writer.prepare())
    assert not slicer.util.arrayFromVolume(node).any()
    writer.write(result(3, {}, confidence=0))
    writer.write(result(4, {}, confidence=180))
    writer.flush()
    array = slicer.util.arrayFromVolume(node)
    assert (array[3] == 1).all() and (array[4] == 180).all()
    assert not array[5:].any()
    assert np.allclose(geometry.volume_to_local(node), OBLIQUE)


def test_colours_and_window_are_fixed_whatever_the_values(volume):
    node = new_confidence_node(volume)
    writer = ConfidenceWriter(node, volume)
    run_steps(writer.prepare())
    for index in range(SHAPE[0]):
        writer.write(result(index, {}, confidence=120 + index))
    writer.flush()
    display = node.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (255, 127.5)
    visible = visible_image(display)
    red, _, blue, _ = (visible.GetScalarComponentAsDouble(8, 10, 6, part) for part in range(4))
    assert red > blue  # 0.5 is red, although it is about the largest value that occurs


def test_the_threshold_leaves_only_doubtful_voxels(volume):
    node = new_confidence_node(volume)
    run_steps(ConfidenceWriter(node, volume).prepare())
    slicer.util.arrayFromVolume(node)[6, 10] = np.arange(16) * 17
    slicer.util.arrayFromVolumeModified(node)
    show_only_below(node, 0.6)
    display = node.GetDisplayNode()
    image = visible_image(display)
    alpha = [image.GetScalarComponentAsDouble(i, 10, 6, 3) for i in range(16)]
    assert [value > 0 for value in alpha] == [0 < 17 * i <= 153 for i in range(16)]


def test_the_overlay_puts_back_what_each_view_showed_before(scene, volume):
    other = add_volume(scene, np.zeros(SHAPE, np.int16), "PET")
    views = nodes_of_class(scene, "vtkMRMLSliceCompositeNode")
    views[0].SetForegroundVolumeID(other.GetID())
    views[0].SetForegroundOpacity(0.3)
    node = new_confidence_node(volume)
    run_steps(ConfidenceWriter(node, volume).prepare())
    for view in views:
        view.SetBackgroundVolumeID(volume.GetID())
    overlay = ConfidenceOverlay()
    overlay.show(node, 0.6, [volume])
    overlay.show(node, 0.8, [volume])
    assert {view.GetForegroundVolumeID() for view in views} == {node.GetID()}
    assert {view.GetForegroundOpacity() for view in views} == {0.8}
    views[2].SetForegroundVolumeID(other.GetID())  # the user picks something else meanwhile
    overlay.show(node, 0.8, [volume])
    assert views[2].GetForegroundVolumeID() == other.GetID()
    overlay.hide(scene)
    assert [view.GetForegroundVolumeID() for view in views] == [other.GetID(), None, other.GetID()]
    assert views[0].GetForegroundOpacity() == 0.3


def test_only_views_of_the_volume_show_its_confidence(scene, volume):
    other = add_volume(scene, np.zeros(SHAPE, np.int16), "another patient")
    views = nodes_of_class(scene, "vtkMRMLSliceCompositeNode")
    for view, background in zip(views, (volume, other, volume), strict=True):
        view.SetBackgroundVolumeID(background.GetID())
    node = new_confidence_node(volume)
    run_steps(ConfidenceWriter(node, volume).prepare())
    overlay = ConfidenceOverlay()
    overlay.show(node, 0.5, [volume])
    visible = [view.GetForegroundVolumeID() for view in views]
    assert visible == [node.GetID(), None, node.GetID()]
    views[0].SetBackgroundVolumeID(other.GetID())
    views[1].SetBackgroundVolumeID(volume.GetID())
    overlay.show(node, 0.5, [volume])
    visible = [view.GetForegroundVolumeID() for view in views]
    assert visible == [None, node.GetID(), node.GetID()]


def test_sure_background_is_visible_only_near_structures_and_doubtful_background_everywhere(scene):
    shape = (3, 80, 60)
    volume = add_volume(scene, np.zeros(shape, np.int16), "target", OBLIQUE)
    node = new_confidence_node(volume)
    writer = ConfidenceWriter(node, volume)
    run_steps(writer.prepare())
    labels = np.zeros(shape[1:], np.uint8)
    labels[20:24, 10:14] = 1
    confidence = np.full(shape[1:], 250, np.uint8)
    confidence[70, 50] = 100  # perhaps a structure that was not found
    writer.write(SliceResult(1, 0, labels, confidence, {}))
    writer.flush()
    show_only_below(node, 1.0)
    image = visible_image(node.GetDisplayNode())
    visible = np.array(
        [[image.GetScalarComponentAsDouble(i, j, 1, 3) for i in range(60)] for j in range(80)]
    )
    assert visible[20:24, 10:14].all() and visible[70, 50]
    # 8 mm are 11 rows of 0.7 mm and 9 columns of 0.9 mm.
    assert visible[23 + 11, 12] and not visible[23 + 13, 12]
    assert visible[22, 13 + 9] and not visible[22, 13 + 11]
    show_only_below(node, 0.9)
    image = visible_image(node.GetDisplayNode())
    assert image.GetScalarComponentAsDouble(50, 70, 1, 3)
    assert not image.GetScalarComponentAsDouble(12, 22, 1, 3)


def test_slices_with_most_voxels_in_doubt_come_first_and_those_without_scores_not_at_all():
    scores = SliceScores([Structure("liver", 1), Structure("lesion", 2)])
    both = {"liver": 0.8, "lesion": 0.4}
    for index, confidence in ((4, 250), (5, 120), (6, 230), (8, 240), (9, 220)):
        scores.add(result(index, both, confidence=confidence))
    scores.add(result(7, {}, confidence=0))
    scores.add(result(5, {"liver": 0.6, "lesion": 0.7}, confidence=204))  # a later report
    listed = [(one.index, one.structure) for one in scores.most_doubtful()]
    # 8 lies beside 9, and doubts the same structure; 6 lies beside 5, and doubts another.
    assert listed == [(5, "liver"), (9, "lesion"), (6, "lesion"), (4, "lesion")]
    assert scores.most_doubtful()[0].doubt == pytest.approx(0.2 * SHAPE[1] * SHAPE[2])


def test_jumping_brings_all_views_to_the_slice_also_under_a_transform(scene, volume):
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    moved = np.eye(4)
    moved[:3, 3] = (5, -7, 11)
    node.SetMatrixTransformToParent(geometry.array_to_matrix(moved))
    volume.SetAndObserveTransformNodeID(node.GetID())
    scores = SliceScores([Structure("liver", 1)])
    scores.add(result(7, {"liver": 0.5}, axis=2))
    scored = scores.most_doubtful()[0]
    world = slice_center_in_world(volume, scored)
    assert np.allclose(world, (moved @ OBLIQUE @ [7, 10, 6, 1])[:3], atol=0.5)
    jump_to(volume, scored)
    for view in nodes_of_class(scene, "vtkMRMLSliceNode"):
        matrix = geometry.matrix_to_array(view.GetSliceToRAS())
        distance = matrix[:3, 2] @ (world - matrix[:3, 3])
        assert abs(distance) < 1e-3


@pytest.mark.parametrize(("index", "told"), [(7, "S 9.5 mm"), (1, "I 2.5 mm")])
def test_the_place_of_a_slice_is_named_as_slice_views_do(scene, index, told):
    affine = np.diag([-0.9, -0.7, 2.0, 1.0])
    affine[2, 3] = -4.5
    volume = add_volume(scene, np.zeros(SHAPE, np.int16), "target", affine)
    scores = SliceScores([Structure("liver", 1)])
    scores.add(result(index, {"liver": 0.5}))
    assert offset_in_words(volume, scores.all()[0]) == told


def test_the_table_of_scores_has_a_row_a_slice_and_a_column_a_structure(scene):
    scores = SliceScores([Structure("liver", 1), Structure("lesion", 2)])
    scores.add(result(5, {"liver": 0.75}))
    scores.add(result(4, {"liver": 0.5, "lesion": 0.25}))
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", "scores")
    scores.write_table(table)
    assert table.GetNumberOfRows() == 2
    names = [table.GetColumnName(column) for column in range(4)]
    assert names == ["Slice", "Voxels in doubt", "liver", "lesion"]
    assert float(table.GetCellText(0, 3)) == 0.25


def test_undo_puts_the_segmentation_back_as_before_the_run(scene, volume):
    output = add_segmentation(scene, volume, {"by hand": MASK}, "output")
    undo = UndoSnapshot(output)
    writer = SegmentationWriter(output, volume, [Structure("liver", 1)])
    run_steps(writer.prepare())
    for index in range(SHAPE[0]):
        writer.write(result(index, {"liver": 0.9}))
    writer.flush()
    assert output.GetSegmentation().GetNumberOfSegments() == 2
    undo.restore()
    assert output.GetSegmentation().GetNumberOfSegments() == 1
    assert np.array_equal(segment_mask(output, "by hand", volume), MASK)
    assert not undo.is_available


def test_undo_of_a_second_run_gives_back_the_first(scene, volume):
    output = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    for shift in (0, 3):
        undo = UndoSnapshot(output)
        writer = SegmentationWriter(output, volume, [Structure("liver", 1)])
        run_steps(writer.prepare())
        for index in range(SHAPE[0] - shift):
            writer.write(result(index, {"liver": 0.9}))
        writer.flush()
    undo.restore()
    assert np.array_equal(segment_mask(output, "liver", volume), MASK)


def test_outputs_are_put_into_the_subject_hierarchy_folder_of_the_target(scene, volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, volume)
    node = new_confidence_node(volume)
    place_beside(node, volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
