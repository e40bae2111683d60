"""The closed surface of a segment, made while the panel goes on.

Slicer converts a labelmap on the main thread: 540 ms for a large structure of 512x512x200 voxels,
in which the panel stands still. Here the filters that Slicer uses run on a thread of their own,
on the voxels alone: no node is touched there. VTK lets go of Python's lock while a filter works.
"""

from __future__ import annotations

import threading
from typing import Any

import vtk

from OFLSAM2Core.app.steps import Steps

WAIT_A_STEP_S = 0.005

_FLYING_EDGES = "0"


def closed_surface(segmentation: Any, labelmap: Any, value: int) -> Steps[Any]:
    """The surface (vtkPolyData, in the segmentation's coordinates) around the voxels of `value`
    in a labelmap (vtkOrientedImageData), in steps.

    It is the one that Slicer's conversion gives (vtkBinaryLabelmapToClosedSurfaceConversionRule),
    with the segmentation's smoothing and decimation. None where the segmentation asks for what
    is not done here (joint smoothing, surface nets): then Slicer has to convert it.
    """
    wanted = {name: _parameter(segmentation, name) for name in _ASKED}
    if wanted["Conversion method"] != _FLYING_EDGES or wanted["Joint smoothing"] != "0":
        return None
    if labelmap.IsEmpty():
        return vtk.vtkPolyData()
    smoothing = float(wanted["Smoothing factor"])
    decimation = float(wanted["Decimation factor"])
    last = _pipeline(labelmap, value, smoothing, decimation, wanted["Compute surface normals"])
    thread = threading.Thread(target=last.Update, daemon=True)
    thread.start()
    while thread.is_alive():
        yield
        thread.join(WAIT_A_STEP_S)
    surface = vtk.vtkPolyData()
    surface.ShallowCopy(last.GetOutput())
    surface.GetPointData().RemoveArray("ImageScalars")  # Or it is shown instead of the colour.
    return surface


_ASKED = {
    "Conversion method": "0",
    "Joint smoothing": "0",
    "Smoothing factor": "0.5",
    "Decimation factor": "0.0",
    "Compute surface normals": "1",
}
"""Slicer's names of the conversion's parameters, and what they are where it has none."""


def _parameter(segmentation: Any, name: str) -> str:
    return segmentation.GetConversionParameter(name) or _ASKED[name]


def _pipeline(labelmap: Any, value: int, smoothing: float, decimation: float, normals: str) -> Any:
    """The filters, connected and not yet run; the last one."""
    voxels = vtk.vtkImageData()  # In voxel coordinates; holds on to the scalars as they are now.
    voxels.ShallowCopy(labelmap)
    voxels.SetOrigin(0, 0, 0)
    voxels.SetSpacing(1, 1, 1)
    voxels.SetDirectionMatrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    first, end = list(labelmap.GetExtent())[::2], list(labelmap.GetExtent())[1::2]
    padded = vtk.vtkImageConstantPad()  # A structure at the border is closed, not cut open.
    padded.SetInputData(voxels)
    padded.SetOutputWholeExtent(
        *(edge for low, high in zip(first, end, strict=True) for edge in (low - 1, high + 1))
    )
    edges = vtk.vtkDiscreteFlyingEdges3D()
    edges.SetInputConnection(padded.GetOutputPort())
    edges.ComputeGradientsOff()
    edges.ComputeNormalsOff()
    edges.SetValue(0, value)
    last: Any = edges
    if decimation > 0:
        decimated = vtk.vtkDecimatePro()
        decimated.SetFeatureAngle(60)
        decimated.SplittingOff()
        decimated.PreserveTopologyOn()
        decimated.SetMaximumError(1)
        decimated.SetTargetReduction(decimation)
        last = _after(last, decimated)
    if smoothing > 0:
        smoothed = vtk.vtkWindowedSincPolyDataFilter()
        smoothed.SetNumberOfIterations(int(20 + 40 * smoothing))
        smoothed.SetPassBand(10.0 ** (-4 * smoothing))
        smoothed.BoundarySmoothingOff()
        smoothed.FeatureEdgeSmoothingOff()
        smoothed.NonManifoldSmoothingOn()
        smoothed.NormalizeCoordinatesOn()
        last = _after(last, smoothed)
    to_world, matrix = vtk.vtkTransform(), vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    to_world.SetMatrix(matrix)
    moved = vtk.vtkTransformPolyDataFilter()
    moved.SetTransform(to_world)
    last = _after(last, moved)
    if normals != "0":
        with_normals = vtk.vtkPolyDataNormals()
        with_normals.ConsistencyOn()
        with_normals.SplittingOff()
        last = _after(last, with_normals)
    return last


def _after(before: Any, after: Any) -> Any:
    after.SetInputConnection(before.GetOutputPort())
    return after
