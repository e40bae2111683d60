"""Slices into a segmentation, in place, while views draw it and the user may edit it.

All structures of a run share one labelmap of the volume's full extent: a layer of their own, so
that nothing else in the segmentation can be overwritten. A slice is written with numpy (0.03 ms
against 30 to 50 ms for a full import). Then only the scalars and the segments are marked as
modified: `image.Modified()` would drop the closed surfaces of all segments.

A voxel that no longer holds what was last written there was edited by the user, and stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.image_identity import IDENTITY_TAG
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.structures import (
    BINARY_LABELMAP,
    CLOSED_SURFACE,
    STRUCTURE_TAG,
    VOLUME_ROLE,
    segment_from,
    tag_of,
)
from OFLSAM2SlicerLib.surfaces import closed_surfaces

Logic = slicer.vtkSlicerSegmentationsModuleLogic


def check_output(segmentation_node: Any, volume_node: Any) -> None:
    """Raises InputError where the slices of a volume cannot be written into a segmentation, or
    something in it would be lost by that."""
    segmentation = segmentation_node.GetSegmentation()
    if segmentation.GetNumberOfSegments() == 0:
        return
    name = segmentation_node.GetName()
    if not geometry.same_place(segmentation_node, volume_node):
        raise InputError(
            f"Segmentation '{name}' is not under the same transform as volume "
            f"'{volume_node.GetName()}'.",
            "Pick a new segmentation as output, or put both under the same transform.",
        )
    source = segmentation.GetSourceRepresentationName()
    if source != BINARY_LABELMAP:
        # With labelmaps as its source, Slicer would drop what they are made from.
        raise InputError(
            f"Segmentation '{name}' is made of another kind of data ({source.lower()}), which "
            "would be lost if slices were written into it.",
            "Pick a new segmentation as output.",
        )


def holds_result_of_others(segmentation_node: Any, volume_nodes: Sequence[Any]) -> bool:
    """Whether a segmentation holds the result of another volume than these: also of one that is
    no longer in the scene."""
    if not has_results(segmentation_node):
        return False
    segmented = _volumes_segmented(segmentation_node)
    return not segmented or any(node not in volume_nodes for node in segmented)


def volume_segmented(segmentation_node: Any) -> Any:
    """The volume whose result a segmentation holds; None where it is not known, or no longer in
    the scene."""
    nodes = _volumes_segmented(segmentation_node) if has_results(segmentation_node) else []
    return next((node for node in nodes if node is not None), None)


def mark_reviewed(segmentation_node: Any) -> None:
    """Mark the segments that were made by this module as completed."""
    for segment in _results(segmentation_node):
        Logic.SetSegmentStatus(segment, Logic.Completed)


def is_reviewed(segmentation_node: Any) -> bool:
    """Whether all segments that were made by this module are completed."""
    segments = _results(segmentation_node)
    return bool(segments) and all(
        Logic.GetSegmentStatus(segment) == Logic.Completed for segment in segments
    )


def _results(segmentation_node: Any) -> list[Any]:
    segmentation = segmentation_node.GetSegmentation()
    segments = [
        segmentation.GetNthSegment(position)
        for position in range(segmentation.GetNumberOfSegments())
    ]
    return [segment for segment in segments if tag_of(segment, STRUCTURE_TAG) is not None]


def has_results(segmentation_node: Any) -> bool:
    """Whether any of its segments was made by this module."""
    return bool(_results(segmentation_node))


def _volumes_segmented(segmentation_node: Any) -> list[Any]:
    """By node references: an ID may be another node's in another scene."""
    count = segmentation_node.GetNumberOfNodeReferences(VOLUME_ROLE)
    return [segmentation_node.GetNthNodeReference(VOLUME_ROLE, number) for number in range(count)]


class SegmentationWriter:
    """Writes the slices of one volume into segments of a segmentation node.

    structures: what the values of `SliceResult.labels` mean.
    """

    def __init__(
        self, segmentation_node: Any, volume_node: Any, structures: Sequence[Structure]
    ) -> None:
        self.segmentation_node = segmentation_node
        self.structures = tuple(structures)
        self.segment_ids: dict[int, str] = {}  # by label
        self.notes: list[str] = []
        self._volume_node = volume_node
        self._extent = geometry.full_extent(volume_node)
        self._affine = geometry.volume_to_local(volume_node)
        shape = tuple(place.stop for place in geometry.extent_slices(self._extent))
        self._written = np.zeros(shape, np.uint8)  # what was last written, by label
        self._touched: dict[int, set[str]] = {}  # segments to mark, by id() of their image
        self._images: dict[int, Any] = {}
        self._left_alone: set[str] = set()

    def prepare(self) -> Steps[None]:
        """Make the segments, empty, in a layer of their own; in steps.

        Raises InputError as `check_output` does.
        """
        node, volume = self.segmentation_node, self._volume_node
        segmentation = node.GetSegmentation()
        is_new = segmentation.GetNumberOfSegments() == 0
        if is_new:
            node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
            node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        check_output(node, volume)
        if not has_results(node):
            node.RemoveNodeReferenceIDs(VOLUME_ROLE)
        if volume not in _volumes_segmented(node):
            node.AddNodeReferenceID(VOLUME_ROLE, volume.GetID())
        if segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
            segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
        image = geometry.grid_image(self._extent, self._affine)
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        yield from geometry.clear(image)
        for structure in self.structures:
            self._add(structure, image)

    def adopt(self, labels: npt.NDArray[np.uint8]) -> None:
        """Take the segmentation as it is for what was written: its segments of the structures'
        names are ours. labels: (K, J, I), what they hold, by `Structure.label`."""
        segmentation = self.segmentation_node.GetSegmentation()
        for structure in self.structures:
            segment_id = segmentation.GetSegmentIdBySegmentName(structure.name)
            if segment_id:
                segmentation.GetSegment(segment_id).SetTag(STRUCTURE_TAG, structure.name)
                self.segment_ids[structure.label] = segment_id
        if self._volume_node not in _volumes_segmented(self.segmentation_node):
            self.segmentation_node.AddNodeReferenceID(VOLUME_ROLE, self._volume_node.GetID())
        self._written[...] = labels

    def write(self, result: SliceResult) -> None:
        """Put one slice in place. Nothing is redrawn before `flush`."""
        labels, written = result.labels, self._written[result.index_expression]
        for image, values in self._layers():
            if not geometry.contains(image.GetExtent(), self._extent):
                image = self._grown(image)
            layer = geometry.image_array(image)[self._inside(image)][result.index_expression]
            if len(values) == len(self.structures) and all(k == v for k, v in values.items()):
                known, new = written, labels  # as long as nothing was moved: 0.1 ms against 2
            else:
                value_of = np.zeros(256, layer.dtype)
                value_of[list(values)] = list(values.values())
                known, new = value_of[written], value_of[labels]
            if np.array_equal(layer, known):
                layer[...] = new
            else:
                np.copyto(layer, new, where=layer == known)
            self._touch(image, values)
        written[...] = labels

    def _touch(self, image: Any, values: dict[int, int]) -> None:
        """Have `flush` mark the segments with these labels as modified."""
        touched = self._touched.setdefault(id(image), set())
        touched.update(self.segment_ids[label] for label in values)
        self._images[id(image)] = image

    def labels_at(self, place: Any) -> npt.NDArray[np.uint8]:
        """What our segments hold in a slice (`SliceResult.index_expression`), by label; a copy."""
        found = np.zeros(self._written[place].shape, np.uint8)
        for image, values in self._layers():
            if not geometry.contains(image.GetExtent(), self._extent):
                image = self._grown(image)
            layer = geometry.image_array(image)[self._inside(image)][place]
            for label, value in values.items():
                np.maximum(found, label, out=found, where=layer == value)
        return found

    def written_at(self, place: Any) -> npt.NDArray[np.uint8]:
        """What was last written into a slice, by label; a copy."""
        return self._written[place].copy()

    def put_back(
        self, place: Any, held: npt.NDArray[np.uint8], written: npt.NDArray[np.uint8]
    ) -> None:
        """Have our segments hold in a slice what they held, whatever is there now."""
        for image, values in self._layers():
            if not geometry.contains(image.GetExtent(), self._extent):
                image = self._grown(image)
            layer = geometry.image_array(image)[self._inside(image)][place]
            layer[np.isin(layer, list(values.values()))] = 0
            for label, value in values.items():
                layer[held == label] = value
            self._touch(image, values)
        self._written[place] = written

    def accept(self, place: Any, held: npt.NDArray[np.uint8]) -> None:
        """Count what a slice holds as written: it is no longer a correction."""
        self._written[place] = held

    def labels_now(self) -> Steps[npt.NDArray[np.uint8]]:
        """What our segments hold now, by label, as (K, J, I): with what the user edited; in steps.
        Where segments overlap, the one with the highest label counts."""
        now = np.zeros(self._written.shape, np.uint8)
        for image, values in self._layers():
            common = geometry.intersection(self._extent, image.GetExtent())
            if image.IsEmpty() or common is None:
                continue
            inside = geometry.offset_slices(common, image.GetExtent())
            held = geometry.image_array(image)[inside]
            target = now[geometry.extent_slices(common)]
            for k in range(len(held)):
                for label, value in values.items():
                    plane = target[k]
                    np.maximum(plane, label, out=plane, where=held[k] == value)
                if k % 8 == 0:
                    yield
        return now

    def corrected_slices(self, axis: int) -> Steps[tuple[list[int], npt.NDArray[np.uint8]]]:
        """Indices along an axis of (K, J, I) of the slices that are no longer what was written, and
        `labels_now`; in steps."""
        now = yield from self.labels_now()
        lines = [other for other in range(3) if other != axis]
        changed = np.zeros(now.shape[axis], bool)
        for k in range(len(now)):
            differs = now[k] != self._written[k]
            if axis == 0:
                changed[k] = differs.any()
            elif differs.any():
                changed |= differs.any(axis=lines[1] - 1)
            if k % 8 == 0:
                yield
        return np.flatnonzero(changed).tolist(), now

    def flush(self) -> None:
        """Have the views redrawn with what was written since the last time."""
        segmentation = self.segmentation_node.GetSegmentation()
        for key, segment_ids in self._touched.items():
            self._images[key].GetPointData().GetScalars().Modified()
            for segment_id in segment_ids:
                segment = segmentation.GetSegment(segment_id)
                if segment is not None:
                    segment.Modified()
        self._touched.clear()
        self._images.clear()

    def mark_in_progress(self) -> None:
        """Until somebody has looked at the segments: `mark_reviewed`."""
        for label in self.segment_ids:
            segment = self._segment(label)
            if segment is not None:
                Logic.SetSegmentStatus(segment, Logic.InProgress)

    def name_image(self, image: str) -> None:
        """Have the segments say of which image they are, also once they are saved: `oflsam2 refine`
        refuses corrections of another one. image: its `image_identity`; "": not known."""
        for label in self.segment_ids:
            segment = self._segment(label)
            if segment is not None and image:
                segment.SetTag(IDENTITY_TAG, image)
            elif segment is not None:
                segment.RemoveTag(IDENTITY_TAG)

    @property
    def shows_surfaces(self) -> bool:
        """Whether the segmentation has closed surfaces, which are out of date after a run."""
        return bool(self.segmentation_node.GetSegmentation().ContainsRepresentation(CLOSED_SURFACE))

    def rebuild_surfaces(self) -> Steps[None]:
        """Make the closed surfaces of our structures anew, in steps; those of other segments
        stay. What is edited meanwhile is in them."""
        todo = dict(self.segment_ids)
        while todo:
            layers: dict[int, tuple[Any, dict[int, int]]] = {}
            for label in list(todo):
                segment = self._segment(label)
                image = segment.GetRepresentation(BINARY_LABELMAP) if segment else None
                if image is None:
                    del todo[label]  # removed by the user
                    continue
                values = layers.setdefault(id(image), (image, {}))[1]
                values[label] = segment.GetLabelValue()
            for image, values in layers.values():
                made_of = _state(image)
                surfaces = yield from closed_surfaces(
                    self.segmentation_node.GetSegmentation(), image, list(values.values())
                )
                if _state(image) != made_of:
                    continue  # edited meanwhile: once more
                for label, value in values.items():
                    segment = self._segment(label)
                    if segment is not None and (
                        segment.GetRepresentation(BINARY_LABELMAP) is image
                        and segment.GetLabelValue() == value
                    ):
                        self._put_surface(segment, surfaces[value] if surfaces else None)
                        del todo[label]
                        yield

    def _segment(self, label: int) -> Any:
        segmentation = self.segmentation_node.GetSegmentation()
        return segmentation.GetSegment(self.segment_ids.get(label, ""))

    def _put_surface(self, segment: Any, surface: Any) -> None:
        """None: Slicer has to make it."""
        segmentation = self.segmentation_node.GetSegmentation()
        segment.RemoveRepresentation(CLOSED_SURFACE)
        if surface is None:
            segmentation.CreateRepresentation(CLOSED_SURFACE)
        else:
            segment.AddRepresentation(CLOSED_SURFACE, surface)
            segmentation.InvokeEvent(slicer.vtkSegmentation.ContainedRepresentationNamesModified)

    def _add(self, structure: Structure, image: Any) -> None:
        """A segment for the structure; one of an earlier run is taken over.

        Taken over, not removed: removing a segment erases its voxels from the layer it shares,
        200 ms each for 512x512x200.
        """
        segmentation = self.segmentation_node.GetSegmentation()
        for position in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(position)
            if tag_of(segment, STRUCTURE_TAG) == structure.name:
                segment.SetLabelValue(structure.label)
                segment.AddRepresentation(BINARY_LABELMAP, image)
                self.segment_ids[structure.label] = segmentation.GetNthSegmentID(position)
                return
        segment = segment_from(structure)
        segment.SetTag(STRUCTURE_TAG, structure.name)
        segment.AddRepresentation(BINARY_LABELMAP, image)
        segment_id = segmentation.GenerateUniqueSegmentID(structure.name)
        segmentation.AddSegment(segment, segment_id)
        self.segment_ids[structure.label] = segment_id

    def _layers(self) -> list[tuple[Any, dict[int, int]]]:
        """The images that now hold our segments, with the value of each structure by label.

        There is one, until the Segment Editor moves a segment into a layer of its own.
        """
        segmentation = self.segmentation_node.GetSegmentation()
        layers: dict[int, tuple[Any, dict[int, int]]] = {}
        for label, segment_id in self.segment_ids.items():
            segment = segmentation.GetSegment(segment_id)
            image = segment.GetRepresentation(BINARY_LABELMAP) if segment is not None else None
            if image is None or segment_id in self._left_alone:
                continue  # removed by the user
            if id(image) not in layers and not self._fits(image, segment):
                self._left_alone.add(segment_id)
                continue
            layers.setdefault(id(image), (image, {}))[1][label] = segment.GetLabelValue()
        return list(layers.values())

    def _fits(self, image: Any, segment: Any) -> bool:
        reference = geometry.grid_image(self._extent, self._affine)
        if image.IsEmpty() or geometry.same_grid(image, reference):
            return True
        self.notes.append(
            f"Segment '{segment.GetName()}' was given another geometry during the run: its "
            "remaining slices were not written."
        )
        return False

    def _grown(self, image: Any) -> Any:
        """The image with the full extent again: the Segment Editor shrinks what it edits."""
        grown = geometry.grid_image(self._extent, self._affine, vtk.VTK_UNSIGNED_CHAR)
        if not image.IsEmpty():
            scalar_type = image.GetScalarType()
            grown = geometry.grid_image(self._extent, self._affine, scalar_type)
            common = geometry.intersection(self._extent, image.GetExtent())
            if common is not None:
                kept = geometry.offset_slices(common, image.GetExtent())
                target = geometry.offset_slices(common, self._extent)
                geometry.image_array(grown)[target] = geometry.image_array(image)[kept]
        image.SetImageToWorldMatrix(geometry.array_to_matrix(self._affine))
        image.SetExtent(self._extent)
        image.GetPointData().SetScalars(grown.GetPointData().GetScalars())
        return image

    def _inside(self, image: Any) -> tuple[slice, slice, slice]:
        """Where our extent lies in an image that may be larger."""
        return geometry.offset_slices(self._extent, image.GetExtent())


def _state(image: Any) -> tuple[int, int]:
    """What changes when an image or its voxels are changed."""
    scalars = image.GetPointData().GetScalars()
    return image.GetMTime(), 0 if scalars is None else scalars.GetMTime()
