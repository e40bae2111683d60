"""Surfaces made beside the panel are those that Slicer makes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from OFLSAM2SlicerLib import surfaces
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP, CLOSED_SURFACE
from OFLSAM2SlicerLib.surfaces import closed_surfaces
from scenes import OBLIQUE, add_segmentation, add_volume, ball
from vtk.util.numpy_support import vtk_to_numpy

from OFLSAM2Core.app.steps import run_steps

SHAPE = (20, 30, 28)


@pytest.fixture
def node(scene):
    volume = add_volume(scene, np.zeros(SHAPE, np.int16), affine=OBLIQUE)
    masks = {"inside": ball(SHAPE, (10, 15, 14), 6), "at the border": ball(SHAPE, (1, 15, 14), 6)}
    return add_segmentation(scene, volume, masks)


def both(node, name):
    """Our surface, and Slicer's own."""
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(name)
    labelmap = segment.GetRepresentation(BINARY_LABELMAP)
    value = segment.GetLabelValue()
    ours = run_steps(closed_surfaces(segmentation, labelmap, [value]))[value]
    assert node.CreateClosedSurfaceRepresentation()
    return ours, segment.GetRepresentation(CLOSED_SURFACE)


@pytest.mark.parametrize("name", ["inside", "at the border"])
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("Smoothing factor", "0.5"),
        ("Smoothing factor", "0.0"),
        ("Smoothing factor", "1.0"),
        ("Decimation factor", "0.6"),
        ("Compute surface normals", "0"),
    ],
)
def test_the_surface_is_the_one_of_slicers_conversion(node, name, parameter, value):
    node.GetSegmentation().SetConversionParameter(parameter, value)
    ours, slicers = both(node, name)
    assert ours.GetNumberOfPoints() == slicers.GetNumberOfPoints() > 100
    assert ours.GetNumberOfPolys() == slicers.GetNumberOfPolys()
    points = [vtk_to_numpy(surface.GetPoints().GetData()) for surface in (ours, slicers)]
    np.testing.assert_allclose(*points, atol=1e-3)
    corners = [
        vtk_to_numpy(surface.GetPolys().GetConnectivityArray()) for surface in (ours, slicers)
    ]
    np.testing.assert_array_equal(*corners)
    normals = [surface.GetPointData().GetNormals() for surface in (ours, slicers)]
    assert (normals[0] is None) == (normals[1] is None)
    if normals[0] is not None:
        np.testing.assert_allclose(*map(vtk_to_numpy, normals), atol=1e-3)
    assert ours.GetPointData().GetScalars() is None


def test_a_structure_that_is_nowhere_has_an_empty_surface(node):
    segmentation = node.GetSegmentation()
    labelmap = segmentation.GetSegment("inside").GetRepresentation(BINARY_LABELMAP)
    surfaces = run_steps(closed_surfaces(segmentation, labelmap, [77]))
    assert surfaces[77].GetNumberOfPoints() == 0


@pytest.mark.parametrize(
    ("parameter", "value"), [("Joint smoothing", "1"), ("Conversion method", "1")]
)
def test_what_only_slicer_can_do_is_left_to_slicer(node, parameter, value):
    segmentation = node.GetSegmentation()
    segmentation.SetConversionParameter(parameter, value)
    segment = segmentation.GetSegment("inside")
    labelmap = segment.GetRepresentation(BINARY_LABELMAP)
    assert run_steps(closed_surfaces(segmentation, labelmap, [segment.GetLabelValue()])) is None


def test_no_filter_works_in_the_panels_process_where_it_would_hold_pythons_lock(scene):
    shape = (60, 192, 192)
    volume = add_volume(scene, np.zeros(shape, np.int16), affine=OBLIQUE)
    masks = {"large": ball(shape, (30, 96, 96), 28)}
    node = add_segmentation(scene, volume, masks)
    segmentation = node.GetSegmentation()
    labelmap = segmentation.GetSegment("large").GetRepresentation(BINARY_LABELMAP)
    steps = closed_surfaces(segmentation, labelmap, [1])
    longest, threads = 0.0, threading.active_count()
    while True:
        began = time.process_time()  # of this process, all its threads
        try:
            next(steps)
        except StopIteration as end:
            (surface,) = end.value.values()
            break
        finally:
            # Not their sum: on a busy machine the other process is looked after many times.
            longest = max(longest, time.process_time() - began)
        assert threading.active_count() == threads
        time.sleep(0.002)
    began = time.process_time()
    assert node.CreateClosedSurfaceRepresentation()
    assert surface.GetNumberOfPoints() > 5000
    assert longest < (time.process_time() - began) / 2


def test_where_the_process_cannot_be_started_slicer_makes_the_surface(node, monkeypatch, caplog):
    monkeypatch.setattr(surfaces, "slicer_python", lambda: "/no/such/python")
    segmentation = node.GetSegmentation()
    labelmap = segmentation.GetSegment("inside").GetRepresentation(BINARY_LABELMAP)
    assert run_steps(closed_surfaces(segmentation, labelmap, [1])) is None
    assert "made by Slicer itself" in caplog.text
