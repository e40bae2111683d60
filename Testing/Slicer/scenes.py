"""Scenes, volumes and segmentations to test with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP
from vtk.util import numpy_support

OBLIQUE = np.array(
    [
        [0.8, -0.3, 0.2, -40.0],
        [0.35, 0.85, -0.1, 12.0],
        [-0.1, 0.2, 2.4, 55.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""Index to RAS of an oblique grid with three different spacings (made orthogonal below)."""
_axes, _ = np.linalg.qr(OBLIQUE[:3, :3])
OBLIQUE[:3, :3] = _axes @ np.diag([0.9, 0.7, 2.5])


def new_scene() -> Any:
    """A scene with the logics that tell nodes what to do, and three slice views."""
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.GetColorLogic().SetMRMLScene(scene)
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
    segmentations.SetMRMLScene(scene)
    hierarchy = slicer.vtkSlicerSubjectHierarchyModuleLogic()
    hierarchy.SetMRMLScene(scene)
    sequences = slicer.vtkSlicerSequencesLogic()
    sequences.SetMRMLScene(scene)
    # A scene keeps no reference to its logics.
    _logics[scene] = (application, segmentations, hierarchy, sequences)
    for name in ("Red", "Green", "Yellow"):
        view = slicer.vtkMRMLSliceNode()
        view.SetName(name)
        view.SetLayoutName(name)
        scene.AddNode(view)
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        scene.AddNode(composite)
    return scene


_logics: dict[Any, tuple[Any, ...]] = {}


def add_volume(
    scene: Any,
    array: npt.NDArray,
    name: str = "volume",
    affine: npt.NDArray | None = None,
    class_name: str = "vtkMRMLScalarVolumeNode",
) -> Any:
    """array: (K, J, I), or (K, J, I, components)."""
    node = scene.AddNewNodeByClass(class_name, name)
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[2], array.shape[1], array.shape[0])
    components = array.shape[3] if array.ndim == 4 else 1
    image.AllocateScalars(numpy_support.get_vtk_array_type(array.dtype), components)
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(geometry.array_to_matrix(np.eye(4) if affine is None else affine))
    slicer.util.arrayFromVolume(node)[...] = array
    slicer.util.arrayFromVolumeModified(node)
    node.CreateDefaultDisplayNodes()
    return node


def add_segmentation(
    scene: Any,
    volume_node: Any,
    masks: Mapping[str, npt.NDArray],
    name: str = "segmentation",
    colors: Sequence[tuple[float, float, float]] = ((0.9, 0.2, 0.1), (0.1, 0.6, 0.9)),
    terminology: Mapping[str, str] | None = None,
) -> Any:
    """masks: (K, J, I) of each segment, on the volume's grid; each in a layer of its own."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    affine = geometry.volume_to_local(volume_node)
    for position, (segment_name, mask) in enumerate(masks.items()):
        image = geometry.grid_image(
            geometry.full_extent(volume_node), affine, vtk.VTK_UNSIGNED_CHAR
        )
        geometry.image_array(image)[...] = mask
        segment = slicer.vtkSegment()
        segment.SetName(segment_name)
        segment.SetColor(*colors[position % len(colors)])
        if terminology and segment_name in terminology:
            segment.SetTerminology(terminology[segment_name])
        segment.AddRepresentation(BINARY_LABELMAP, image)
        node.GetSegmentation().AddSegment(segment, segment_name)
    return node


def load_volume(path: str, properties: Mapping[str, str] | None = None) -> Any:
    """`slicer.util.loadVolume`, by the core's reader."""
    from OFLSAM2Core.io.reading import read_volume  # Slicer does without SimpleITK until here.

    read = read_volume(path)
    name = (properties or {}).get("name", read.name)
    return add_volume(slicer.mrmlScene, np.asarray(read.array), name, read.affine)


def load_segmentation(path: str, properties: Mapping[str, str] | None = None) -> Any:
    """`slicer.util.loadSegmentation`, by the core's readers; an empty .seg.nrrd is loaded, too."""
    from OFLSAM2Core.io.reading import read_segmentation
    from OFLSAM2Core.io.seg_nrrd import read_seg_nrrd

    is_own = path.endswith(".seg.nrrd")
    labels, affine, structures = read_seg_nrrd(Path(path)) if is_own else read_segmentation(path)
    scene = slicer.mrmlScene
    volume = add_volume(scene, labels, "grid", affine)
    masks = {one.name: labels == one.label for one in structures}
    name = (properties or {}).get("name", "read")
    node = add_segmentation(scene, volume, masks, name, [one.color for one in structures])
    scene.RemoveNode(volume)
    return node


def segment_mask(segmentation_node: Any, name: str, volume_node: Any) -> npt.NDArray[np.bool_]:
    """What a segment covers on a volume's grid, as Slicer itself would export it."""
    segmentation = segmentation_node.GetSegmentation()
    segment_id = segmentation.GetSegmentIdBySegmentName(name)
    segment = segmentation.GetSegment(segment_id)
    image = segment.GetRepresentation(BINARY_LABELMAP)
    shape = slicer.util.arrayFromVolume(volume_node).shape[:3]
    mask = np.zeros(shape, bool)
    common = geometry.intersection(image.GetExtent(), geometry.full_extent(volume_node))
    if image.IsEmpty() or common is None:
        return mask
    voxels = geometry.image_array(image)[geometry.offset_slices(common, image.GetExtent())]
    mask[geometry.extent_slices(common)] = voxels == segment.GetLabelValue()
    return mask


def ball(shape: Sequence[int], center: Sequence[float], radius: float) -> npt.NDArray[np.bool_]:
    """A ball in voxels, (K, J, I)."""
    grid = np.indices(tuple(shape)).astype(float)
    squares = ((grid[axis] - center[axis]) ** 2 for axis in range(3))
    return sum(squares) <= radius**2


SHAPE = (20, 24, 16)


def case_arrays(shift: int = 0) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    """An image in which brightness tells the structures apart, and masks of liver and lesion."""
    image = np.zeros(SHAPE, np.int16)
    liver, lesion = ball(SHAPE, (10, 10 + shift, 8), 6), ball(SHAPE, (10, 10 + shift, 8), 2)
    image[liver], image[lesion] = 100, 200
    return image, liver & ~lesion, lesion
