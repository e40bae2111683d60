"""Makes closed surfaces of masks: a program, run by `surfaces.py` in a process of its own.

    PythonSlicer surface_process.py FOLDER

FOLDER holds job.json and the mask VALUE.npy of each piece; VALUE.vtp is written beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from vtkmodules.util import numpy_support
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkCommonTransforms import vtkTransform
from vtkmodules.vtkFiltersCore import (
    vtkDecimatePro,
    vtkPolyDataNormals,
    vtkWindowedSincPolyDataFilter,
)
from vtkmodules.vtkFiltersGeneral import vtkDiscreteFlyingEdges3D, vtkTransformPolyDataFilter
from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter


def image_of(mask: Any, first: list[int]) -> Any:
    """A vtkImageData in voxel coordinates. mask: (K, J, I). first: (i, j, k) of its first voxel."""
    image = vtkImageData()
    depth, height, width = mask.shape
    ends = [start + length - 1 for start, length in zip(first, (width, height, depth), strict=True)]
    image.SetExtent(first[0], ends[0], first[1], ends[1], first[2], ends[2])
    scalars = numpy_support.numpy_to_vtk(mask.reshape(-1), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def surface_of(image: Any, job: dict[str, Any]) -> Any:
    """What vtkBinaryLabelmapToClosedSurfaceConversionRule makes of a binary image."""
    last: Any = vtkDiscreteFlyingEdges3D()
    last.SetInputData(image)
    last.ComputeGradientsOff()
    last.ComputeNormalsOff()
    last.SetValue(0, 1)
    if job["decimation"] > 0:
        decimated = vtkDecimatePro()
        decimated.SetFeatureAngle(60)
        decimated.SplittingOff()
        decimated.PreserveTopologyOn()
        decimated.SetMaximumError(1)
        decimated.SetTargetReduction(job["decimation"])
        last = after(last, decimated)
    if job["smoothing"] > 0:
        smoothed = vtkWindowedSincPolyDataFilter()
        smoothed.SetNumberOfIterations(int(20 + 40 * job["smoothing"]))
        smoothed.SetPassBand(10.0 ** (-4 * job["smoothing"]))
        smoothed.BoundarySmoothingOff()
        smoothed.FeatureEdgeSmoothingOff()
        smoothed.NonManifoldSmoothingOn()
        smoothed.NormalizeCoordinatesOn()
        last = after(last, smoothed)
    matrix, transform = vtkMatrix4x4(), vtkTransform()
    matrix.DeepCopy(job["to_world"])
    transform.SetMatrix(matrix)
    moved = vtkTransformPolyDataFilter()
    moved.SetTransform(transform)
    last = after(last, moved)
    if job["normals"]:
        with_normals = vtkPolyDataNormals()
        with_normals.ConsistencyOn()
        with_normals.SplittingOff()
        last = after(last, with_normals)
    last.Update()
    surface = last.GetOutput()
    surface.GetPointData().RemoveArray("ImageScalars")  # or it is drawn instead of the colour
    return surface


def after(before: Any, filter_: Any) -> Any:
    filter_.SetInputConnection(before.GetOutputPort())
    return filter_


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    for piece in job["pieces"]:
        image = image_of(np.load(folder / f"{piece['value']}.npy"), piece["first"])
        writer = vtkXMLPolyDataWriter()
        writer.SetFileName(str(folder / f"{piece['value']}.vtp"))
        writer.SetInputData(surface_of(image, job))
        writer.SetDataModeToAppended()
        writer.EncodeAppendedDataOff()
        writer.SetCompressorTypeToNone()
        if not writer.Write():
            raise SystemExit(f"The surface of {piece['value']} could not be written.")


if __name__ == "__main__":
    main()
