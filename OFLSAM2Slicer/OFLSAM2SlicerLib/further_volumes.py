"""Volumes of the same patient that are co-registered with the volume to segment, or with that of a
support case; kept in the parameter node and so in the saved scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from OFLSAM2Core.data.validation import MOST_VOLUMES
from OFLSAM2Core.data.volume_count import difference

ROLES = tuple(f"further{place}" for place in range(1, MOST_VOLUMES))
"""Roles of the node references; each is written after a prefix."""

_TARGET = "target."
_OF = f"{_TARGET}furtherOf"
PART = "More volumes of each patient"


def read_references(node: Any, prefix: str) -> tuple[Any, ...]:
    """The volumes that a parameter node refers to and that are in the scene, in order."""
    found = (node.GetNodeReference(f"{prefix}{role}") for role in ROLES)
    return tuple(volume for volume in found if volume is not None)


def write_references(node: Any, prefix: str, volumes: Sequence[Any]) -> None:
    """Let the node refer to these volumes and no others, in order."""
    for place, role in enumerate(ROLES):
        node_id = volumes[place].GetID() if place < len(volumes) else None
        node.SetNodeReferenceID(f"{prefix}{role}", node_id)


def further_of_target(node: Any, target: Any) -> tuple[Any, ...]:
    """The further volumes of the volume to segment. There are none where they were chosen for
    another target: two patients' volumes must not be used together."""
    if target is None or node.GetNodeReference(_OF) is not target:
        return ()
    return read_references(node, _TARGET)


def set_further_of_target(node: Any, target: Any, volumes: Sequence[Any]) -> None:
    modified = node.StartModify()
    node.SetNodeReferenceID(_OF, target.GetID() if volumes else None)
    write_references(node, _TARGET, volumes)
    node.EndModify(modified)


def why_not_so_many(name: str, count: int, wanted: int, others: str) -> str:
    """Why a volume with further ones cannot be used with others, and what to do in the panel; ""
    where it can (`volume_count.difference`)."""
    problem = difference(name, count, wanted, others)
    if not problem:
        return ""
    if count > wanted:
        return f"{problem} Take those that are too many out, in the part {PART}."
    return f"{problem} Choose as many of it, in the same order, in the part {PART}."
