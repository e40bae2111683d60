"""Where nodes are: grids as oriented images, and transforms between nodes.

Matrices are 4x4 numpy arrays, index (i, j, k) to RAS millimetres, as MRML keeps them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from vtk.util import numpy_support

from OFLSAM2Core.app.steps import Steps, run_steps

BYTES_A_STEP = 4_000_000

Extent = tuple[int, int, int, int, int, int]


def matrix_to_array(matrix: Any) -> npt.NDArray[np.float64]:
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


def array_to_matrix(array: npt.NDArray) -> Any:
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, float).ravel().tolist())
    return matrix


def volume_to_local(volume_node: Any) -> npt.NDArray[np.float64]:
    """Index to RAS of a volume, without its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return matrix_to_array(matrix)


def rigid_or_scaling_to_world(node: Any) -> npt.NDArray[np.float64] | None:
    """All parent transforms of a node as one matrix; None where they shear or are not linear."""
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not parent.IsTransformToWorldLinear() or not parent.GetMatrixTransformToWorld(matrix):
        return None
    world = matrix_to_array(matrix)
    gram = world[:3, :3].T @ world[:3, :3]
    off_diagonal = gram - np.diag(np.diag(gram))
    return world if np.abs(off_diagonal).max() <= 1e-4 * np.trace(gram) else None


def same_place(one: Any, other: Any) -> bool:
    """Whether two nodes are under the same transform, so that their local coordinates agree."""
    return one.GetParentTransformNode() is other.GetParentTransformNode()


def transform_between(source: Any, target: Any) -> Any:
    """vtkGeneralTransform from the local coordinates of one node to those of another."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        source.GetParentTransformNode(), target.GetParentTransformNode(), transform
    )
    return transform


def grid_image(extent: Extent, ijk_to_ras: npt.NDArray, scalar_type: int | None = None) -> Any:
    """A vtkOrientedImageData of this extent, with zeroed voxels where a scalar type is given."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(extent)
    image.SetImageToWorldMatrix(array_to_matrix(ijk_to_ras))
    if scalar_type is not None:
        image.AllocateScalars(scalar_type, 1)
        run_steps(clear(image))
    return image


def clear(image: Any) -> Steps[None]:
    """Set all voxels to zero, in steps: the first touch of 50 MB of memory takes 30 to 150 ms."""
    flat = image_array(image).reshape(-1)
    for first in range(0, flat.size, BYTES_A_STEP // flat.itemsize):
        flat[first : first + BYTES_A_STEP // flat.itemsize] = 0
        yield


def image_array(image: Any) -> npt.NDArray:
    """The voxels as (K, J, I), a view into the image."""
    scalars = image.GetPointData().GetScalars()
    width, height, depth = image.GetDimensions()
    return numpy_support.vtk_to_numpy(scalars).reshape(depth, height, width)


def full_extent(volume_node: Any) -> Extent:
    width, height, depth = volume_node.GetImageData().GetDimensions()
    return (0, width - 1, 0, height - 1, 0, depth - 1)


def extent_slices(extent: Extent) -> tuple[slice, slice, slice]:
    """Where an extent lies in a (K, J, I) array that starts at index 0."""
    return (
        slice(extent[4], extent[5] + 1),
        slice(extent[2], extent[3] + 1),
        slice(extent[0], extent[1] + 1),
    )


def offset_slices(extent: Extent, outer: Extent) -> tuple[slice, slice, slice]:
    """Where an extent lies in the (K, J, I) array of an outer extent."""
    k, j, i = extent_slices(extent)
    return (
        slice(k.start - outer[4], k.stop - outer[4]),
        slice(j.start - outer[2], j.stop - outer[2]),
        slice(i.start - outer[0], i.stop - outer[0]),
    )


def intersection(one: Extent, other: Extent) -> Extent | None:
    low = [max(one[2 * axis], other[2 * axis]) for axis in range(3)]
    high = [min(one[2 * axis + 1], other[2 * axis + 1]) for axis in range(3)]
    if any(first > last for first, last in zip(low, high, strict=True)):
        return None
    return (low[0], high[0], low[1], high[1], low[2], high[2])


def contains(outer: Extent, inner: Extent) -> bool:
    return intersection(outer, inner) == tuple(inner)


def same_grid(image: Any, other: Any) -> bool:
    """Whether two oriented images have their voxels at the same places (extents may differ)."""
    one, two = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(one)
    other.GetImageToWorldMatrix(two)
    return bool(np.allclose(matrix_to_array(one), matrix_to_array(two), atol=1e-4))
