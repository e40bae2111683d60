"""Slices arrive in a real segmentation node, and nothing else there is touched."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.segmentation_writer import SegmentationWriter
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP, CLOSED_SURFACE
from scenes import OBLIQUE, add_segmentation, add_volume, ball, segment_mask

from OFLSAM2Core.app.steps import run_steps
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError

SHAPE = (12, 20, 16)
LIVER = Structure("liver", 1, (0.8, 0.3, 0.2), "Cat^1^c~SCT^10200004^Liver~^^~Ana^1^a~^^~^^")
LESION = Structure("lesion", 2, (0.2, 0.3, 0.9))
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[ball(SHAPE, (6, 10, 8), 5)] = 1
LABELS[ball(SHAPE, (6, 11, 8), 2)] = 2


def slices(labels=LABELS, axis=0, order=None):
    indices = range(labels.shape[axis]) if order is None else order
    for index in indices:
        plane = np.take(labels, index, axis)
        yield SliceResult(index, axis, plane, np.full(plane.shape, 200, np.uint8), {"liver": 0.9})


@pytest.fixture
def volume(scene):
    return add_volume(scene, np.zeros(SHAPE, np.int16), "target", OBLIQUE)


@pytest.fixture
def output(scene):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "output")
    node.CreateDefaultDisplayNodes()
    return node


def writer_for(output, volume, structures=(LIVER, LESION)):
    writer = SegmentationWriter(output, volume, structures)
    run_steps(writer.prepare())
    return writer


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_along_any_axis_arrive_voxel_for_voxel(volume, output, axis):
    writer = writer_for(output, volume)
    for result in slices(axis=axis):
        writer.write(result)
    writer.flush()
    assert np.array_equal(segment_mask(output, "liver", volume), LABELS == 1)
    assert np.array_equal(segment_mask(output, "lesion", volume), LABELS == 2)


def test_slicer_itself_exports_the_labels_that_were_written(scene, volume, output):
    writer = writer_for(output, volume)
    for result in slices():
        writer.write(result)
    writer.flush()
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "export")
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportAllSegmentsToLabelmapNode(
        output, labelmap, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    )
    assert np.array_equal(slicer.util.arrayFromVolume(labelmap), LABELS)
    matrix = geometry.volume_to_local(labelmap)
    assert np.allclose(matrix, OBLIQUE, atol=1e-5)


def test_segments_carry_name_colour_and_terminology_of_the_structures(volume, output):
    writer_for(output, volume)
    segment = output.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "liver"
    assert segment.GetColor() == pytest.approx(LIVER.color)
    assert segment.GetTerminology() == LIVER.terminology


def test_other_segments_and_their_surfaces_stay_as_they_are(scene, volume):
    mask = ball(SHAPE, (6, 10, 8), 4)
    output = add_segmentation(scene, volume, {"by hand": mask})
    output.CreateClosedSurfaceRepresentation()
    segment = output.GetSegmentation().GetSegment("by hand")
    surface = segment.GetRepresentation(CLOSED_SURFACE)
    changed_at = surface.GetMTime()
    writer = writer_for(output, volume)
    for result in slices():
        writer.write(result)
        writer.flush()
    run_steps(writer.rebuild_surfaces())
    assert np.array_equal(segment_mask(output, "by hand", volume), mask)
    assert segment.GetRepresentation(CLOSED_SURFACE) is surface
    assert surface.GetMTime() == changed_at
    ours = output.GetSegmentation().GetSegment(writer.segment_ids[1])
    assert ours.GetRepresentation(CLOSED_SURFACE).GetNumberOfPoints() > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_that_the_segment_editor_changes_are_reported(volume, output, axis):
    writer = writer_for(output, volume)
    for result in slices(axis=axis):
        writer.write(result)
    writer.flush()
    assert run_steps(writer.corrected_slices(axis))[0] == []
    # The editor's own call; it shrinks the labelmap, and here moves a segment to a new layer.
    stroke = geometry.grid_image((8, 10, 10, 12, 1, 2), OBLIQUE, vtk.VTK_UNSIGNED_CHAR)
    geometry.image_array(stroke)[...] = 1
    mode = slicer.vtkSlicerSegmentationsModuleLogic.MODE_MERGE_MAX
    edit(output, writer.segment_ids[2], stroke, mode)
    expected = LABELS.copy()
    expected[1:3, 10:13, 8:11] = 2
    changed = np.flatnonzero((expected != LABELS).any(axis=tuple({0, 1, 2} - {axis})))
    assert 0 < len(changed) < 4
    indices, labels = run_steps(writer.corrected_slices(axis))
    assert indices == changed.tolist()
    assert np.array_equal(labels, expected)


def test_views_are_notified_once_a_flush_and_not_once_a_slice(volume, output):
    writer = writer_for(output, volume)
    told = []
    segmentation = output.GetSegmentation()
    segmentation.AddObserver(
        slicer.vtkSegmentation.SegmentModified, lambda *_: told.append("segment")
    )
    segmentation.AddObserver(
        slicer.vtkSegmentation.SourceRepresentationModified, lambda *_: told.append("source")
    )
    for result in slices():
        writer.write(result)
    assert told == []
    writer.flush()
    assert told == ["segment", "segment"]
    writer.flush()
    assert told == ["segment", "segment"]


def test_what_the_user_paints_during_the_run_stays(volume, output):
    writer = writer_for(output, volume)
    image = output.GetSegmentation().GetNthSegment(0).GetRepresentation(BINARY_LABELMAP)
    first, second = list(slices(order=range(6))), list(slices(order=range(6, 12)))
    for result in first:
        writer.write(result)
    array = geometry.image_array(image)
    array[3, 0, 0] = 1  # in a slice that is there already
    array[9, 19, 15] = 2  # in a slice still to come
    for result in second:
        writer.write(result)
    again = np.zeros(SHAPE[1:], np.uint8)
    writer.write(SliceResult(3, 0, again, again, {}, revision=1))
    writer.flush()
    expected = LABELS.copy()
    expected[3] = 0
    expected[3, 0, 0], expected[9, 19, 15] = 1, 2
    assert np.array_equal(segment_mask(output, "liver", volume), expected == 1)
    assert np.array_equal(segment_mask(output, "lesion", volume), expected == 2)


def edit(output, segment_id, image, mode):
    assert slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(
        image, output, segment_id, mode, image.GetExtent(), False
    )


def test_an_edit_by_the_segment_editor_neither_breaks_the_run_nor_is_lost(volume, output):
    # The editor's own call; it shrinks the labelmap, and here moves a segment to a new layer.
    writer = writer_for(output, volume)
    for result in slices(order=range(6)):
        writer.write(result)
    writer.flush()
    stroke = geometry.grid_image((8, 10, 10, 12, 1, 2), OBLIQUE, vtk.VTK_UNSIGNED_CHAR)
    geometry.image_array(stroke)[...] = 1
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    edit(output, writer.segment_ids[2], stroke, logic.MODE_MERGE_MAX)
    painted = segment_mask(output, "lesion", volume)
    assert painted[1:3, 10:13, 8:11].all()
    for result in slices(order=range(6, 12)):
        writer.write(result)
        writer.flush()
    assert np.array_equal(segment_mask(output, "lesion", volume), (LABELS == 2) | painted)
    liver = segment_mask(output, "liver", volume)
    assert np.array_equal(liver[6:], LABELS[6:] == 1)
    assert np.array_equal(liver & ~painted, (LABELS == 1) & ~painted)


def test_a_segment_erased_by_the_user_is_filled_again_only_with_what_comes(volume, output):
    writer = writer_for(output, volume)
    for result in slices(order=range(7)):
        writer.write(result)
    output.GetSegmentation().SeparateSegmentLabelmap(writer.segment_ids[1])
    slicer.vtkSlicerSegmentationsModuleLogic.ClearSegment(output, writer.segment_ids[1])
    for result in slices(order=range(7, 12)):
        writer.write(result)
    writer.flush()
    liver = segment_mask(output, "liver", volume)
    assert not liver[:7].any()
    assert np.array_equal(liver[7:], LABELS[7:] == 1)


def test_a_segment_removed_during_the_run_does_not_come_back(volume, output):
    writer = writer_for(output, volume)
    output.GetSegmentation().RemoveSegment(writer.segment_ids[1])
    for result in slices():
        writer.write(result)
    writer.flush()
    assert output.GetSegmentation().GetNumberOfSegments() == 1
    assert np.array_equal(segment_mask(output, "lesion", volume), LABELS == 2)


def test_a_segment_added_by_the_user_during_the_run_is_kept(volume, output):
    writer = writer_for(output, volume)
    for result in slices(order=range(6)):
        writer.write(result)
    added = output.GetSegmentation().AddEmptySegment("", "mine")
    segment = output.GetSegmentation().GetSegment(added)
    array = geometry.image_array(segment.GetRepresentation(BINARY_LABELMAP))
    array[8, 9:11, 7:9] = segment.GetLabelValue()
    for result in slices(order=range(6, 12)):
        writer.write(result)
    writer.flush()
    mine = segment_mask(output, "mine", volume)
    assert mine[8, 9:11, 7:9].all() and mine.sum() == 4


def test_a_second_run_replaces_the_segments_of_the_first(volume, output):
    for _ in range(2):
        writer = writer_for(output, volume)
        for result in slices():
            writer.write(result)
        writer.flush()
    assert output.GetSegmentation().GetNumberOfSegments() == 2
    assert np.array_equal(segment_mask(output, "liver", volume), LABELS == 1)


def test_a_volume_under_a_transform_gets_its_segmentation_under_the_same(scene, volume, output):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    parent = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved again")
    transform.SetAndObserveTransformNodeID(parent.GetID())
    volume.SetAndObserveTransformNodeID(transform.GetID())
    writer = writer_for(output, volume)
    for result in slices():
        writer.write(result)
    writer.flush()
    assert output.GetParentTransformNode() is transform
    assert np.array_equal(segment_mask(output, "liver", volume), LABELS == 1)


def test_surfaces_are_not_turned_into_labelmaps_unasked(scene, volume):
    output = add_segmentation(scene, volume, {"by hand": ball(SHAPE, (6, 10, 8), 4)}, "output")
    segmentation = output.GetSegmentation()
    segmentation.CreateRepresentation(CLOSED_SURFACE)
    segmentation.SetSourceRepresentationName(CLOSED_SURFACE)
    points = segmentation.GetNthSegment(0).GetRepresentation(CLOSED_SURFACE).GetNumberOfPoints()
    with pytest.raises(InputError, match="'output' is made of another kind of data"):
        writer_for(output, volume)
    surface = segmentation.GetNthSegment(0).GetRepresentation(CLOSED_SURFACE)
    assert surface.GetNumberOfPoints() == points > 0


def test_a_segmentation_under_another_transform_is_refused_in_words(scene, volume):
    output = add_segmentation(scene, volume, {"by hand": ball(SHAPE, (6, 10, 8), 4)}, "output")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    output.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(InputError, match="'output' is not under the same transform"):
        writer_for(output, volume)
