"""Nodes become support cases: whatever their geometry, labels land where Slicer shows them."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import vtk
from OFLSAM2SlicerLib import cases, geometry
from OFLSAM2SlicerLib.cases import SupportPair, matching_pairs, read_support_case, structures_of
from OFLSAM2SlicerLib.structures import structures_across, structures_of_segmentation
from scenes import OBLIQUE, add_segmentation, add_volume, ball

from OFLSAM2Core.app.steps import run_steps
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError

SHAPE = (12, 20, 16)
LIVER = ball(SHAPE, (6, 10, 8), 5)
LESION = ball(SHAPE, (3, 4, 12), 2)
IMAGE = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def read(volume, labels, wanted=None):
    return run_steps(read_support_case(SupportPair(volume, labels), wanted))


def test_a_pair_becomes_a_case_with_the_volumes_voxels_and_every_segment(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    segmentation = add_segmentation(scene, volume, {"liver": LIVER, "lesion": LESION})
    found = read(volume, segmentation)
    assert np.array_equal(found.case.volume.array, IMAGE)
    assert np.allclose(found.case.volume.affine, OBLIQUE)
    assert [structure.name for structure in found.case.structures] == ["liver", "lesion"]
    assert np.array_equal(found.case.labels, LIVER + 2 * LESION)
    assert found.notes == []


def test_a_cropped_shared_labelmap_is_read_as_the_segment_editor_leaves_it(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    segmentation = add_segmentation(scene, volume, {"liver": LIVER, "lesion": LESION})
    segmentation.GetSegmentation().CollapseBinaryLabelmaps(False)
    for position in range(2):
        slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(
            geometry.grid_image((0, 0, 0, 0, 0, 0), OBLIQUE, vtk.VTK_UNSIGNED_CHAR),
            segmentation,
            segmentation.GetSegmentation().GetNthSegmentID(position),
            slicer.vtkSlicerSegmentationsModuleLogic.MODE_MERGE_MAX,
        )
    image = segmentation.GetSegmentation().GetNthSegment(0).GetRepresentation("Binary labelmap")
    assert image.GetExtent() != geometry.full_extent(volume)
    assert np.array_equal(read(volume, segmentation).case.labels, LIVER + 2 * LESION)


def test_reading_in_small_steps_gives_the_same_as_in_one(scene, monkeypatch):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    segmentation = add_segmentation(scene, volume, {"liver": LIVER, "lesion": LESION})
    whole = read(volume, segmentation).case.labels
    monkeypatch.setattr(cases, "VOXELS_A_STEP", 1)
    steps = []
    in_parts = run_steps(
        read_support_case(SupportPair(volume, segmentation)), lambda: steps.append(1)
    )
    assert np.array_equal(in_parts.case.labels, whole)
    assert len(steps) > 2 * SHAPE[0]


def test_a_segmentation_on_a_finer_grid_is_resampled_and_the_user_is_warned(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    fine_affine = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine_affine[:3, 3] -= OBLIQUE[:3, :3] @ np.full(3, 0.25)
    fine_mask = LIVER.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    fine = add_volume(scene, fine_mask.astype(np.int16), "fine", fine_affine)
    segmentation = add_segmentation(scene, fine, {"liver": fine_mask})
    found = read(volume, segmentation)
    assert np.array_equal(found.case.labels, LIVER)
    assert "resampled" in found.notes[0]


def test_labels_follow_a_transform_that_only_the_segmentation_is_under(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    segmentation = add_segmentation(scene, volume, {"liver": LIVER})
    two_slices_up = np.eye(4)
    two_slices_up[:3, 3] = 2 * OBLIQUE[:3, 2]
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    node.SetMatrixTransformToParent(geometry.array_to_matrix(two_slices_up))
    segmentation.SetAndObserveTransformNodeID(node.GetID())
    labels = read(volume, segmentation).case.labels
    assert np.array_equal(labels[2:], LIVER[:-2])
    assert not labels[:2].any()


def test_a_linear_transform_of_the_volume_turns_its_axes_as_the_user_sees_them(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    turned = np.eye(4)
    turned[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turned")
    node.SetMatrixTransformToParent(geometry.array_to_matrix(turned))
    volume.SetAndObserveTransformNodeID(node.GetID())
    found, notes = cases.volume_from_node(volume)
    assert np.allclose(found.affine, turned @ OBLIQUE)
    assert notes == []


def test_a_shearing_transform_is_left_out_with_a_note(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    shear = np.eye(4)
    shear[0, 1] = 0.5
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "sheared")
    node.SetMatrixTransformToParent(geometry.array_to_matrix(shear))
    volume.SetAndObserveTransformNodeID(node.GetID())
    found, notes = cases.volume_from_node(volume)
    assert np.allclose(found.affine, OBLIQUE)
    assert "'case 1'" in notes[0]


def test_a_labelmap_volume_serves_as_well_with_the_names_of_its_colours(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    values = np.where(LIVER, 7, 0) + np.where(LESION, 300, 0)
    labelmap = add_volume(
        scene, values.astype(np.int16), "labels", OBLIQUE, "vtkMRMLLabelMapVolumeNode"
    )
    colors = scene.AddNode(slicer.vtkMRMLColorTableNode())
    colors.SetTypeToUser()
    colors.SetNumberOfColors(8)
    colors.SetColor(7, "liver", 0.5, 0.25, 0.125, 1.0)
    labelmap.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
    case = read(volume, labelmap).case
    assert [structure.name for structure in case.structures] == ["liver", "Label 300"]
    assert case.structures[0].color == pytest.approx((0.5, 0.25, 0.125), abs=0.01)
    assert np.array_equal(case.labels, LIVER + 2 * LESION)


def test_only_ticked_structures_are_taken_with_the_labels_they_are_given(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    segmentation = add_segmentation(scene, volume, {"liver": LIVER, "lesion": LESION})
    case = read(volume, segmentation, [Structure("LESION", 9)]).case
    assert np.array_equal(case.labels, 9 * LESION)
    assert [(one.name, one.label) for one in case.structures] == [("lesion", 9)]


def test_an_empty_segment_counts_as_missing_and_overlap_is_reported(scene):
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    masks = {"liver": LIVER, "inner": LIVER & ball(SHAPE, (6, 10, 8), 2), "none": LIVER & False}
    found = read(volume, add_segmentation(scene, volume, masks))
    assert [one.name for one in found.case.structures] == ["liver", "inner"]
    assert any("'inner' overlaps" in note for note in found.notes)
    assert any("'none' is empty" in note for note in found.notes)


def test_volumes_and_pairs_that_cannot_be_used_are_refused_by_name(scene):
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(InputError, match="'nothing' has no image data"):
        cases.volume_from_node(empty)
    volume = add_volume(scene, IMAGE, "case 1", OBLIQUE)
    far_away = add_volume(scene, IMAGE, "far", OBLIQUE + _far())
    segmentation = add_segmentation(scene, far_away, {"liver": LIVER}, "elsewhere")
    with pytest.raises(InputError, match="'elsewhere' has no labelled voxel within 'case 1'"):
        read(volume, segmentation)
    bare = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bare")
    with pytest.raises(InputError, match="'bare' has no structures"):
        cases.check_pair(SupportPair(volume, bare))


def _far():
    offset = np.zeros((4, 4))
    offset[:3, 3] = 1000
    return offset


def test_a_colour_volume_is_a_sequence_of_frames(scene):
    frames = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 3), np.uint8)
    node = add_volume(scene, frames, "video", None, "vtkMRMLVectorVolumeNode")
    volume, _ = cases.volume_from_node(node)
    assert volume.is_sequence
    assert np.array_equal(volume.array, frames)


def test_matching_pairs_are_found_by_reference_and_by_name(scene):
    first = add_volume(scene, IMAGE, "case 1")
    second = add_volume(scene, IMAGE, "case 2")
    add_volume(scene, IMAGE, "to segment")
    by_reference = add_segmentation(scene, first, {"liver": LIVER}, "whatever")
    by_name = add_volume(
        scene, LIVER.astype(np.uint8), "Case 2-label", None, "vtkMRMLLabelMapVolumeNode"
    )
    found = matching_pairs(scene)
    assert found == [SupportPair(first, by_reference), SupportPair(second, by_name)]


@pytest.mark.parametrize("same_grid", [False, True])
def test_labels_whose_name_fits_several_volumes_belong_to_the_one_with_their_grid_or_to_none(
    scene, same_grid
):
    add_volume(scene, IMAGE, "MR", np.eye(4) if same_grid else np.diag([2.0, 2, 2, 1]))
    second = add_volume(scene, IMAGE, "MR")
    labels = LIVER.astype(np.uint8)
    labelmap = add_volume(scene, labels, "MR-label", None, "vtkMRMLLabelMapVolumeNode")
    found = matching_pairs(scene)
    assert found == ([] if same_grid else [SupportPair(second, labelmap)])


def test_segments_of_one_code_are_both_read_and_distinguished_by_name(scene):
    kidney = "Anatomy~SCT^123037004^Anatomy~SCT^64033007^Kidney~^^"
    left, right = ball(SHAPE, (5, 6, 8), 3), ball(SHAPE, (5, 16, 8), 3)
    pairs = []
    for number in (1, 2):
        volume = add_volume(scene, left.astype(np.int16), f"case {number}")
        node = add_segmentation(scene, volume, {"left": left, "right": right}, f"seg {number}")
        for position in range(2):
            segment = node.GetSegmentation().GetNthSegment(position)
            segment.SetTag(segment.GetTerminologyEntryTagName(), kidney)
        pairs.append(SupportPair(volume, node))
    found = structures_across([structures_of(pair.labels_node) for pair in pairs])
    assert [(each.structure.name, each.cases) for each in found] == [
        ("left", (0, 1)),
        ("right", (0, 1)),
    ]
    case = run_steps(read_support_case(pairs[1], [each.structure for each in found])).case
    assert np.array_equal(case.labels == 1, left)
    assert np.array_equal(case.labels == 2, right)


def test_a_labelmap_without_voxels_is_refused_by_name(scene):
    empty = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "lost labels")
    with pytest.raises(InputError, match="Labelmap 'lost labels' has no image data"):
        structures_of(empty)


def test_structures_match_across_cases_by_code_then_by_name(scene):
    volume = add_volume(scene, IMAGE, "case 1")
    code = {"Leber": "C^1^c~SCT^10200004^Liver~^^~A^1^a~^^~^^"}
    german = add_segmentation(scene, volume, {"Leber": LIVER, "x": LESION}, "a", terminology=code)
    code = {"liver": "Other^9^c~SCT^10200004^liver~^^~A^1^a~^^~^^"}
    english = add_segmentation(scene, volume, {"X ": LESION, "liver": LIVER}, "b", terminology=code)
    per_case = [[one for _, one in structures_of_segmentation(node)] for node in (german, english)]
    found = structures_across(per_case)
    assert [(one.structure.name, one.structure.label, one.cases) for one in found] == [
        ("Leber", 1, (0, 1)),
        ("x", 2, (0, 1)),
    ]


def test_volumes_that_are_co_registered_come_with_their_own_grids(scene):
    volume = add_volume(scene, IMAGE, "T1", OBLIQUE)
    coarse = add_volume(scene, IMAGE[::2], "T2", OBLIQUE @ np.diag([1, 1, 2, 1]))
    segmentation = add_segmentation(scene, volume, {"liver": LIVER})
    pair = SupportPair(volume, segmentation, (coarse,))
    (other,) = run_steps(read_support_case(pair)).case.volume.further
    assert other.name == "T2" and np.array_equal(other.array, IMAGE[::2])
    assert np.allclose(other.affine, OBLIQUE @ np.diag([1, 1, 2, 1]))
