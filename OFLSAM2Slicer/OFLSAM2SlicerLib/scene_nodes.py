"""Small things every part needs of a MRML scene."""

from __future__ import annotations

from typing import Any

import slicer


def nodes_of_class(scene: Any, class_name: str) -> list[Any]:
    return [
        scene.GetNthNodeByClass(position, class_name)
        for position in range(scene.GetNumberOfNodesByClass(class_name))
    ]


def is_in_scene(node: Any) -> bool:
    return node is not None and node.GetScene() is not None


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
