"""One step back: our segments as they were before a run."""

from __future__ import annotations

from typing import Any

import slicer

from OFLSAM2Core.data.image_identity import IDENTITY_TAG
from OFLSAM2SlicerLib.scene_nodes import is_in_scene
from OFLSAM2SlicerLib.structures import BINARY_LABELMAP, CLOSED_SURFACE, STRUCTURE_TAG, tag_of

Logic = slicer.vtkSlicerSegmentationsModuleLogic


class UndoSnapshot:
    """The labelmaps that the segments of earlier runs have at one moment, whether somebody has
    reviewed them, and of which image they are.

    A run puts new labelmaps into its segments and never writes into those of others. So it is
    enough to hold on to the old ones: no copy (a snapshot of vtkSegmentationHistory takes 26 to
    70 ms for 512x512x200), and what the user edited elsewhere meanwhile is not undone.
    """

    def __init__(self, segmentation_node: Any) -> None:
        self._node = segmentation_node
        self._before: dict[str, tuple[Any, int, int, str | None]] = {}
        self._is_held = True
        segmentation = segmentation_node.GetSegmentation()
        for segment_id in _our_segments(segmentation):
            segment = segmentation.GetSegment(segment_id)
            image = segment.GetRepresentation(BINARY_LABELMAP)
            status = Logic.GetSegmentStatus(segment)
            made_of = tag_of(segment, IDENTITY_TAG)
            self._before[segment_id] = (image, segment.GetLabelValue(), status, made_of)

    @property
    def is_available(self) -> bool:
        return self._is_held and is_in_scene(self._node)

    def restore(self) -> None:
        """Segments that were made since are removed, the others get their labelmaps back."""
        if not self.is_available:
            return
        segmentation = self._node.GetSegmentation()
        for segment_id in _our_segments(segmentation):
            segment = segmentation.GetSegment(segment_id)
            if segment_id not in self._before:
                # Without voxels, or they would be erased one by one from the layer they share.
                segment.RemoveAllRepresentations()
                segmentation.RemoveSegment(segment_id)
                continue
            image, value, status, made_of = self._before[segment_id]
            segment.SetLabelValue(value)
            Logic.SetSegmentStatus(segment, status)
            if made_of is None:
                segment.RemoveTag(IDENTITY_TAG)
            else:
                segment.SetTag(IDENTITY_TAG, made_of)
            segment.AddRepresentation(BINARY_LABELMAP, image)
            if segment.GetRepresentation(CLOSED_SURFACE) is not None:
                segment.RemoveRepresentation(CLOSED_SURFACE)
                segmentation.CreateRepresentation(CLOSED_SURFACE)
        self.release()

    def release(self) -> None:
        """Let the old labelmaps go; there is no way back any more."""
        self._before.clear()
        self._is_held = False


def _our_segments(segmentation: Any) -> list[str]:
    found = []
    for position in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(position)
        if tag_of(segmentation.GetSegment(segment_id), STRUCTURE_TAG) is not None:
            found.append(segment_id)
    return found
