"""Small things every part needs of a MRML scene."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import slicer

from OFLSAM2Core.errors import InputError


def nodes_of_class(scene: Any, class_name: str) -> list[Any]:
    return [
        scene.GetNthNodeByClass(position, class_name)
        for position in range(scene.GetNumberOfNodesByClass(class_name))
    ]


def is_in_scene(node: Any) -> bool:
    return node is not None and node.GetScene() is not None


def voxels_of(volume_node: Any) -> npt.NDArray:
    """`slicer.util.arrayFromVolume`; raises InputError where the node has no voxels."""
    image = volume_node.GetImageData()
    if image is None or 0 in image.GetDimensions():
        kind = "Labelmap" if volume_node.IsA("vtkMRMLLabelMapVolumeNode") else "Volume"
        raise InputError(
            f"{kind} '{volume_node.GetName()}' has no image data.",
            "Load it again, or pick another one.",
        )
    return slicer.util.arrayFromVolume(volume_node)


def place_beside(node: Any, neighbour: Any) -> None:
    """Put a node into the subject hierarchy folder of another (its study, say)."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None:
        return
    item = hierarchy.GetItemByDataNode(neighbour)
    parent = hierarchy.GetItemParent(item) if item else 0
    if not parent:
        return
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)
