"""Nodes to the core's plain data: volumes and support cases.

Reading is cut into steps (a generator): a support case of 512x512x200 voxels and ten structures
takes about a second to gather, and the panel must not stand still for more than 50 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.structures import Structure, ambiguous_codes, find_structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.scene_nodes import nodes_of_class, voxels_of
from OFLSAM2SlicerLib.structures import (
    BINARY_LABELMAP,
    structures_of_labelmap,
    structures_of_segmentation,
)

VOXELS_A_STEP = 2_000_000
"""A step compares and copies this many voxels: 5 to 10 ms."""

Notes = list[str]


@dataclass(frozen=True)
class SupportPair:
    """What the user picked: a volume, and a segmentation or labelmap of it.

    further_nodes: volumes of the same patient that are co-registered with it.
    """

    volume_node: Any
    labels_node: Any
    further_nodes: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        return str(self.volume_node.GetName())

    @property
    def nodes(self) -> tuple[Any, ...]:
        """All that must be in the scene."""
        return (self.volume_node, self.labels_node, *self.further_nodes)

    @property
    def volume_count(self) -> int:
        return 1 + len(self.further_nodes)

    @property
    def volumes_in_words(self) -> str:
        """Names of its volumes, joined as on the command line."""
        return " + ".join(node.GetName() for node in (self.volume_node, *self.further_nodes))


@dataclass
class ReadCase:
    """A support case, and what the user should know of it."""

    case: SupportCase
    notes: Notes = field(default_factory=list)


def volume_from_node(volume_node: Any) -> tuple[Volume, Notes]:
    """A volume node as the core's Volume; its array is a view into the node's voxels.

    An RGB volume is a sequence of frames along its last axis. Linear parent transforms count,
    so that what the user sees as axial is axial; others do not, with a note.
    Raises InputError.
    """
    name = volume_node.GetName()
    array = voxels_of(volume_node)
    if array.ndim == 4 and array.shape[3] not in (1, 3, 4):
        raise InputError(
            f"Volume '{name}' has {array.shape[3]} values per voxel.",
            "Pick a volume with one value per voxel, or colour images.",
        )
    if array.ndim == 4 and array.shape[3] > 1:
        return Volume(_colour_frames(array[..., :3], name), np.eye(4), name), []
    array = array[..., 0] if array.ndim == 4 else array
    affine = geometry.volume_to_local(volume_node)
    to_world = geometry.rigid_or_scaling_to_world(volume_node)
    if to_world is not None:
        return Volume(array, to_world @ affine, name), []
    note = (
        f"'{name}' is under a transform that is not linear or shears: it is sliced along its own "
        "axes, as if it were not transformed."
    )
    return Volume(array, affine, name), [note]


def volume_with_further(volume_node: Any, further_nodes: Sequence[Any]) -> tuple[Volume, Notes]:
    """A volume and others that are co-registered with it; the worker puts them onto its grid.

    Raises InputError.
    """
    volume, notes = volume_from_node(volume_node)
    further = []
    for place, node in enumerate(further_nodes):
        if node is volume_node or any(node is other for other in further_nodes[:place]):
            raise InputError(
                f"'{node.GetName()}' is given twice as a volume of one case.",
                "Give each co-registered volume once.",
            )
        other, own_notes = volume_from_node(node)
        further.append(other)
        notes = notes + own_notes
    return replace(volume, further=tuple(further)), notes


def structures_of(labels_node: Any) -> list[Structure]:
    """The structures of a segmentation or labelmap. Raises InputError."""
    if labels_node.IsA("vtkMRMLSegmentationNode"):
        return [structure for _, structure in structures_of_segmentation(labels_node)]
    return [structure for _, structure in structures_of_labelmap(labels_node)]


def check_pair(pair: SupportPair) -> Notes:
    """The note on a pair before it is used; cheap. Raises InputError."""
    volume, notes = volume_with_further(pair.volume_node, pair.further_nodes)
    if not structures_of(pair.labels_node):
        raise InputError(
            f"'{pair.labels_node.GetName()}' has no structures.",
            "Segment at least one structure in it, or pick another segmentation.",
        )
    if not _on_grid_of(pair.labels_node, pair.volume_node):
        notes.append(
            f"'{pair.labels_node.GetName()}' has another geometry than '{volume.name}': it is "
            "resampled onto the volume's voxels."
        )
    return notes


def read_support_case(pair: SupportPair, wanted: list[Structure] | None = None) -> Steps[ReadCase]:
    """The support case of a pair, in steps.

    wanted: structures to take (matched by code or name), with the labels to give them; all where
        None. A structure without voxels counts as missing.
    Raises InputError.
    """
    volume, notes = volume_with_further(pair.volume_node, pair.further_nodes)
    labels, present = yield from read_labels(pair, wanted, notes)
    if not present:
        raise InputError(
            f"'{pair.labels_node.GetName()}' has no labelled voxel within '{volume.name}'.",
            "Check that the two belong together, and that the structures are ticked.",
        )
    return ReadCase(SupportCase(volume, labels, tuple(present)), notes)


def read_labels(
    pair: SupportPair, wanted: list[Structure] | None, notes: Notes
) -> Steps[tuple[npt.NDArray[np.uint8], list[Structure]]]:
    """The labels of a pair on its volume's (K, J, I) grid, and the structures that have voxels
    there; in steps.

    wanted: as in `read_support_case`. notes: what the user should know is added.
    Raises InputError.
    """
    name = pair.name
    extent = geometry.full_extent(pair.volume_node)
    whole = geometry.extent_slices(extent)
    labels = np.zeros(tuple(place.stop for place in whole), np.uint8)
    if not _on_grid_of(pair.labels_node, pair.volume_node):
        notes.append(f"'{pair.labels_node.GetName()}' was resampled onto the voxels of '{name}'.")
    present: list[Structure] = []
    masks = _masks(pair)
    shared = ambiguous_codes([wanted or [], [structure for structure, _ in masks]])
    for structure, read_mask in masks:
        chosen = structure if wanted is None else find_structure(structure, wanted, shared)
        if chosen is None:
            continue
        chosen = replace(structure, label=chosen.label)
        count = overlap = 0
        for part in _parts(extent):
            mask = read_mask(part)
            yield
            if mask is None or not mask.any():
                continue
            target = labels[geometry.extent_slices(part)]
            count += int(mask.sum())
            overlap += int(np.count_nonzero(target[mask]))
            target[mask] = chosen.label
            yield
        if overlap:
            notes.append(
                f"'{structure.name}' overlaps other structures in {overlap} voxels of '{name}': "
                "there it is taken."
            )
        if count:
            present.append(chosen)
        else:
            notes.append(f"'{structure.name}' is empty in '{name}'.")
    return labels, present


def matching_pairs(scene: Any) -> list[SupportPair]:
    """All segmentations and labelmaps of the scene with the volume they were made on.

    A segmentation knows its volume; otherwise the volume of the same name, less a suffix such as
    "-label" or " segmentation", is taken. Where several have that name, it is the one with the
    grid of the labels, or none: which one they were drawn on is not guessed.
    """
    volumes = [
        node
        for node in nodes_of_class(scene, "vtkMRMLScalarVolumeNode")
        if not node.IsA("vtkMRMLLabelMapVolumeNode")
    ]
    labels = nodes_of_class(scene, "vtkMRMLSegmentationNode")
    labels += nodes_of_class(scene, "vtkMRMLLabelMapVolumeNode")
    pairs = []
    for node in labels:
        volume = None
        if node.IsA("vtkMRMLSegmentationNode"):
            volume = node.GetNodeReference("referenceImageGeometryRef")
        if volume is None:
            names = _names_without_suffix(node.GetName())
            named = [other for other in volumes if other.GetName().casefold() in names]
            if len(named) > 1:
                named = [other for other in named if _has_grid_of(node, other)]
            volume = named[0] if len(named) == 1 else None
        if volume in volumes:
            pairs.append(SupportPair(volume, node))
    return pairs


def _has_grid_of(labels_node: Any, volume_node: Any) -> bool:
    """Whether both have voxels at the same places; of a labelmap, as many."""
    image = volume_node.GetImageData()
    if image is None:
        return False
    if labels_node.IsA("vtkMRMLLabelMapVolumeNode"):
        labels = labels_node.GetImageData()
        if labels is None or labels.GetDimensions() != image.GetDimensions():
            return False
    return _on_grid_of(labels_node, volume_node)


def _names_without_suffix(name: str) -> set[str]:
    name = name.casefold()
    names = {name.removesuffix(".seg")}
    for suffix in ("segmentation", "label", "labels", "labelmap", "seg", "gt", "mask"):
        for stem in (name, name.removesuffix(".seg")):
            if stem.endswith(suffix):
                stem = stem.removesuffix(suffix).rstrip(" -_.")
                names |= {stem, f"{stem}_image", f"{stem}-image", f"{stem} image"}
    return names - {""}


def _colour_frames(array: npt.NDArray, name: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    raise InputError(
        f"The colours of '{name}' are not stored as 8-bit values.",
        "Convert it with the module Vector to Scalar Volume, or load 8-bit images.",
    )


def _parts(extent: geometry.Extent) -> list[geometry.Extent]:
    """The extent in pieces of whole slices."""
    a_slice = (extent[1] - extent[0] + 1) * (extent[3] - extent[2] + 1)
    count = max(1, VOXELS_A_STEP // a_slice)
    return [
        (*extent[:4], first, min(first + count - 1, extent[5]))
        for first in range(extent[4], extent[5] + 1, count)
    ]


def _masks(
    pair: SupportPair,
) -> list[tuple[Structure, Callable[[geometry.Extent], npt.NDArray[np.bool_] | None]]]:
    """Each structure of the pair with a function that gives its mask in a part of the volume."""
    if pair.labels_node.IsA("vtkMRMLSegmentationNode"):
        _ensure_binary_labelmap(pair.labels_node)
        segmentation = pair.labels_node.GetSegmentation()
        segments = structures_of_segmentation(pair.labels_node)
        sources = []
        for segment_id, structure in segments:
            segment = segmentation.GetSegment(segment_id)
            image = segment.GetRepresentation(BINARY_LABELMAP)
            sources.append((structure, image, segment.GetLabelValue()))
    else:
        image = _labelmap_image(pair.labels_node)
        sources = [
            (structure, image, value)
            for value, structure in structures_of_labelmap(pair.labels_node)
        ]
    return [(structure, _mask_reader(image, value, pair)) for structure, image, value in sources]


def _mask_reader(
    image: Any, value: int, pair: SupportPair
) -> Callable[[geometry.Extent], npt.NDArray[np.bool_] | None]:
    affine = geometry.volume_to_local(pair.volume_node)
    same_place = geometry.same_place(pair.labels_node, pair.volume_node)

    def read(part: geometry.Extent) -> npt.NDArray[np.bool_] | None:
        if image is None or image.GetPointData().GetScalars() is None:
            return None
        reference = geometry.grid_image(part, affine)
        shape = tuple(place.stop - place.start for place in geometry.extent_slices(part))
        mask = np.zeros(shape, bool)
        if same_place and geometry.same_grid(image, reference):
            common = geometry.intersection(part, image.GetExtent())
            if common is None:
                return None
            found = geometry.image_array(image)
            found = found[geometry.offset_slices(common, image.GetExtent())]
            mask[geometry.offset_slices(common, part)] = found == value
            return mask
        resampled = slicer.vtkOrientedImageData()
        transform = None
        if not same_place:
            transform = geometry.transform_between(pair.labels_node, pair.volume_node)
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            image, reference, resampled, False, False, transform
        )
        common = geometry.intersection(part, resampled.GetExtent())
        if common is None or resampled.GetPointData().GetScalars() is None:
            return None
        found = geometry.image_array(resampled)
        found = found[geometry.offset_slices(common, resampled.GetExtent())]
        mask[geometry.offset_slices(common, part)] = found == value
        return mask

    return read


def _ensure_binary_labelmap(segmentation_node: Any) -> None:
    """A segmentation of surfaces or contours gets labelmaps, in its own default geometry."""
    segmentation = segmentation_node.GetSegmentation()
    if segmentation.ContainsRepresentation(BINARY_LABELMAP) or not (
        segmentation.GetNumberOfSegments()
    ):
        return
    if not segmentation_node.CreateBinaryLabelmapRepresentation():
        raise InputError(
            f"Segmentation '{segmentation_node.GetName()}' cannot be made into labelmaps.",
            "Open it in the Segmentations module and create its binary labelmap there.",
        )


def _labelmap_image(labelmap_node: Any) -> Any:
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(labelmap_node.GetImageData())
    image.SetImageToWorldMatrix(geometry.array_to_matrix(geometry.volume_to_local(labelmap_node)))
    return image


def _on_grid_of(labels_node: Any, volume_node: Any) -> bool:
    """Whether all labels lie on the volume's grid, and within it."""
    if not geometry.same_place(labels_node, volume_node):
        return False
    if labels_node.IsA("vtkMRMLSegmentationNode"):
        segmentation = labels_node.GetSegmentation()
        images = [
            segmentation.GetNthSegment(position).GetRepresentation(BINARY_LABELMAP)
            for position in range(segmentation.GetNumberOfSegments())
        ]
    else:
        images = [_labelmap_image(labels_node)]
    grid = geometry.grid_image(
        geometry.full_extent(volume_node), geometry.volume_to_local(volume_node)
    )
    return all(
        image is not None and (image.IsEmpty() or geometry.same_grid(image, grid))
        for image in images
    )
