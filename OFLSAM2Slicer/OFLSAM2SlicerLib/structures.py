"""Segments and label values as structures, and back.

A structure keeps what Slicer knows of a segment: name, colour, terminology entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from OFLSAM2Core.data.structures import Structure, ambiguous_codes, find_structure
from OFLSAM2Core.errors import InputError
from OFLSAM2SlicerLib.scene_nodes import voxels_of

BINARY_LABELMAP = "Binary labelmap"
CLOSED_SURFACE = "Closed surface"
MAX_STRUCTURES = 255

STRUCTURE_TAG = "OFLSAM2.Structure"
"""Segment tag that marks a segment as made by this module: a later run takes it over."""

VOLUME_ROLE = "OFLSAM2.Volume"
"""Role of a segmentation's references to the volumes whose results it holds."""


@dataclass(frozen=True)
class FoundStructure:
    """A structure and the support cases (by position) it was found in."""

    structure: Structure
    cases: tuple[int, ...]


def structures_of_segmentation(segmentation_node: Any) -> list[tuple[str, Structure]]:
    """Segment ID and structure of each segment; labels count from 1 in the segments' order."""
    segmentation = segmentation_node.GetSegmentation()
    found = []
    for position in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(position)
        structure = structure_of(segmentation.GetSegment(segment_id), position + 1)
        found.append(
            (segment_id, structure if structure.name else replace(structure, name=segment_id))
        )
    if len(found) > MAX_STRUCTURES:
        raise InputError(
            f"Segmentation '{segmentation_node.GetName()}' has {len(found)} segments.",
            f"At most {MAX_STRUCTURES} can be used: remove those that are not needed.",
        )
    return found


def structure_of(segment: Any, label: int = 1) -> Structure:
    """What Slicer knows of a segment."""
    color = segment.GetColor()
    return Structure(
        name=segment.GetName() or "",
        label=label,
        color=(color[0], color[1], color[2]),
        terminology=tag_of(segment, segment.GetTerminologyEntryTagName()) or "",
    )


def structures_of_labelmap(labelmap_node: Any) -> list[tuple[int, Structure]]:
    """Label value and structure of each value that occurs; names from the node's colour table."""
    values = _label_values(voxels_of(labelmap_node))
    if len(values) > MAX_STRUCTURES:
        raise InputError(
            f"Labelmap '{labelmap_node.GetName()}' has {len(values)} different label values.",
            "Pick a labelmap with a value per structure, 255 at most.",
        )
    display = labelmap_node.GetDisplayNode()
    colors = display.GetColorNode() if display else None
    found = []
    for position, value in enumerate(values):
        rgba = [0.5, 0.68, 0.5, 1.0]
        name = ""
        if colors is not None and value < colors.GetNumberOfColors():
            colors.GetColor(value, rgba)
            name = colors.GetColorName(value) or ""
        name = f"Label {value}" if name in ("", "(none)", "invalid") else name
        color = (rgba[0], rgba[1], rgba[2])
        found.append((value, Structure(name=name, label=position + 1, color=color)))
    return found


def structures_across(cases: Sequence[Sequence[Structure]]) -> list[FoundStructure]:
    """The structures of all cases, matched by terminology code, then name.

    Name, colour and terminology are those of the first case that has the structure; labels are
    given anew, from 1.
    """
    shared = ambiguous_codes(cases)
    kept: list[Structure] = []
    where: list[list[int]] = []
    for case, structures in enumerate(cases):
        for structure in structures:
            known = find_structure(structure, kept, shared)
            if known is None:
                kept.append(structure)
                where.append([case])
            elif case not in where[kept.index(known)]:
                where[kept.index(known)].append(case)
    return [
        FoundStructure(replace(structure, label=position + 1), tuple(places))
        for position, (structure, places) in enumerate(zip(kept, where, strict=True))
    ]


def _label_values(array: npt.NDArray) -> list[int]:
    """The values above 0 that occur. Slice by slice: np.unique sorts, 3 s for 512x512x200."""
    found: set[int] = set()
    for plane in array:
        if plane.max() > 0:
            found.update(np.unique(plane[plane > 0]).astype(int).tolist())
    return sorted(found)


def tag_of(segment: Any, name: str) -> str | None:
    """A segment's tag, None where it has none of that name."""
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else None


def segment_from(structure: Structure) -> Any:
    """A new vtkSegment without voxels."""
    segment = slicer.vtkSegment()
    segment.SetName(structure.name)
    segment.SetColor(*structure.color)
    segment.SetLabelValue(structure.label)
    if structure.terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), structure.terminology)
    return segment
