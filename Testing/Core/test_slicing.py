"""Cutting is exact, whatever the storage order, and looks as Slicer's views do."""

from __future__ import annotations

import numpy as np
import pytest
from orientations import ORIENTATIONS, stored

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.slice_geometry import (
    SliceGeometry,
    support_geometries,
    validate_slice_count,
)
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError

AXES = ("sagittal", "coronal", "axial", "auto")


def oblique_rotation() -> np.ndarray:
    """20 degrees about an axis that is none of the world's."""
    x, y, z = np.array([0.3, -0.5, 0.81]) / np.linalg.norm([0.3, -0.5, 0.81])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(20)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def make_volume(rotation: np.ndarray | None = None) -> Volume:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag([0.7, 0.8, 3.0])
    affine[:3, 3] = (-11.0, 5.0, 80.0)
    return Volume(array, affine)


@pytest.mark.parametrize("rotation", [None, oblique_rotation()], ids=["straight", "oblique"])
@pytest.mark.parametrize("axis", AXES)
def test_uncut_is_the_exact_inverse_of_cut_in_all_48_orientations(axis, rotation):
    for order, signs in ORIENTATIONS:
        volume = stored(make_volume(rotation), order, signs)
        slicing = SliceGeometry.for_volume(volume, axis)
        stack = slicing.to_slices(volume.array)
        assert stack.shape == (slicing.count, *slicing.slice_shape) == slicing.shape
        assert np.shares_memory(stack, volume.array)
        np.testing.assert_array_equal(slicing.from_slices(stack), volume.array)


@pytest.mark.parametrize("rotation", [None, oblique_rotation()], ids=["straight", "oblique"])
@pytest.mark.parametrize("axis", AXES)
def test_the_same_volume_stored_in_any_orientation_gives_identical_slices(axis, rotation):
    volume = make_volume(rotation)
    slicing = SliceGeometry.for_volume(volume, axis)
    expected = slicing.to_slices(volume.array)
    for order, signs in ORIENTATIONS:
        other = stored(volume, order, signs)
        other_slicing = SliceGeometry.for_volume(other, axis)
        assert other_slicing.orientation == slicing.orientation
        assert other_slicing.steps == pytest.approx(slicing.steps)
        np.testing.assert_array_equal(other_slicing.to_slices(other.array), expected)


def test_support_cases_are_all_cut_along_the_axis_of_most_of_them(caplog) -> None:
    """Also where the first one was scanned along another."""
    thick = {"sagittal": (4.0, 1.0, 1.0), "axial": (1.0, 1.0, 4.0)}
    structures = (Structure("one", 1),)
    cases = []
    for axis in ("sagittal", "axial", "axial"):
        array = np.zeros((12, 12, 12), np.int16)
        volume = Volume(array, np.diag([*thick[axis], 1.0]), axis)
        cases.append(SupportCase(volume, np.ones(array.shape, np.uint8), structures))
    assert [each.orientation for each in support_geometries(cases)] == ["axial"] * 3
    assert "different axes" in caplog.text
    assert [each.orientation for each in support_geometries(cases[:1])] == ["sagittal"]


@pytest.mark.parametrize("axis", AXES)
def test_planes_written_at_their_place_give_the_uncut_stack(axis):
    for order, signs in ORIENTATIONS:
        volume = stored(make_volume(), order, signs)
        slicing = SliceGeometry.for_volume(volume, axis)
        stack = (slicing.to_slices(volume.array) % 251).astype(np.uint8)
        output = np.zeros(volume.grid_shape, np.uint8)
        for number in range(slicing.count):
            plane = slicing.slice_to_volume_axes(stack[number])
            index = slicing.index_in_volume(number)
            result = SliceResult(index, slicing.axis, plane, plane)
            output[result.index_expression] = result.labels
        np.testing.assert_array_equal(output, slicing.from_slices(stack))


@pytest.mark.parametrize(
    ("axis", "slices", "rows", "columns"),
    [
        ("axial", "S", "P", "L"),
        ("coronal", "A", "I", "L"),
        ("sagittal", "R", "I", "P"),
    ],
)
def test_slices_look_as_in_slicers_standard_views(axis, slices, rows, columns):
    """A step to the next slice, row and column goes this way in the world (RAS)."""
    ways = {
        "R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)
    }  # fmt: skip
    for order, signs in ORIENTATIONS:
        volume = stored(make_volume(oblique_rotation()), order, signs)
        indices = np.stack(np.meshgrid(*map(np.arange, volume.grid_shape), indexing="ij"), -1)
        world = indices[..., ::-1] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        slicing = SliceGeometry.for_volume(volume, axis)
        canonical = np.stack([slicing.to_slices(world[..., n]) for n in range(3)], -1)
        for along, way in enumerate((slices, rows, columns)):
            step = np.diff(canonical, axis=along).reshape(-1, 3)[0]
            coordinate, sign = ways[way]
            assert np.abs(step).argmax() == coordinate
            assert np.sign(step[coordinate]) == sign
            assert np.linalg.norm(step) == pytest.approx(slicing.steps[along])


@pytest.mark.parametrize(
    ("spacing_ras", "expected"),
    [
        ((1.0, 1.0, 1.0), "axial"),
        ((0.5, 0.5, 7.5), "axial"),
        ((0.5, 4.0, 0.5), "coronal"),
        ((3.3, 0.6, 0.6), "sagittal"),
        ((1.2, 1.0, 1.0), "axial"),
        ((5.1, 5.1, 2.5), "axial"),
    ],
)
def test_auto_cuts_the_way_the_scan_was_made(spacing_ras, expected):
    volume = Volume(np.zeros((4, 5, 6), np.int16), np.diag([*spacing_ras, 1.0]))
    for order, signs in ORIENTATIONS:
        assert SliceGeometry.for_volume(stored(volume, order, signs)).orientation == expected


def test_a_sequence_is_cut_into_its_frames_as_stored():
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    slicing = SliceGeometry.for_volume(Volume(frames))
    assert (slicing.orientation, slicing.axis, slicing.count) == ("frame", 0, 4)
    np.testing.assert_array_equal(slicing.to_slices(frames), frames)
    np.testing.assert_array_equal(slicing.from_slices(slicing.to_slices(frames)), frames)
    labels = frames[..., 0]
    np.testing.assert_array_equal(slicing.slice_to_volume_axes(labels[2]), labels[2])


def test_a_sequence_has_no_world_axes_and_a_volume_no_frames():
    sequence = Volume(np.zeros((4, 6, 8, 3), np.uint8), name="clip")
    with pytest.raises(InputError, match="clip"):
        SliceGeometry.for_volume(sequence, "axial")
    with pytest.raises(InputError, match="brain"):
        SliceGeometry.for_volume(Volume(np.zeros((4, 6, 8)), name="brain"), "frame")


def test_an_unknown_axis_is_an_error_that_lists_the_known_ones():
    with pytest.raises(InputError, match="transverse.*\n.*axial"):
        SliceGeometry.for_volume(make_volume(), "transverse")


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 0.0, 1.0, 1.0]),
        np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
    ],
    ids=["zero spacing", "parallel axes", "not a number"],
)
def test_geometry_that_cannot_be_inverted_is_an_error(affine):
    with pytest.raises(InputError, match="geometry of 'knee'"):
        SliceGeometry.for_volume(Volume(np.zeros((4, 5, 6)), affine, "knee"))


def test_one_slice_is_enough_and_none_is_an_error():
    volume = Volume(np.zeros((1, 5, 6)), name="thin")
    validate_slice_count(volume, SliceGeometry.for_volume(volume, "axial"))
    empty = Volume(np.zeros((0, 5, 6)), name="empty")
    with pytest.raises(InputError, match="'empty' has 0 axial slices"):
        validate_slice_count(empty, SliceGeometry.for_volume(empty, "axial"))
    one_frame = Volume(np.zeros((1, 5, 6, 3), np.uint8))
    validate_slice_count(one_frame, SliceGeometry.for_volume(one_frame))
