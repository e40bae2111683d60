"""Surfaces made beside the panel are those that Slicer makes."""

from __future__ import annotations

import numpy as np
import pytest
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP, CLOSED_SURFACE
from OFLSAM2SlicerLib.surfaces import closed_surface
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
    ours = run_steps(closed_surface(segmentation, labelmap, segment.GetLabelValue()))
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
    assert run_steps(closed_surface(segmentation, labelmap, 77)).GetNumberOfPoints() == 0


@pytest.mark.parametrize(
    ("parameter", "value"), [("Joint smoothing", "1"), ("Conversion method", "1")]
)
def test_what_only_slicer_can_do_is_left_to_slicer(node, parameter, value):
    segmentation = node.GetSegmentation()
    segmentation.SetConversionParameter(parameter, value)
    segment = segmentation.GetSegment("inside")
    labelmap = segment.GetRepresentation(BINARY_LABELMAP)
    assert run_steps(closed_surface(segmentation, labelmap, segment.GetLabelValue())) is None
