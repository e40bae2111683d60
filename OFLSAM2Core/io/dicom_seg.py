"""DICOM segmentations (SEG) as labels: every frame where its own position says."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from OFLSAM2Core.data.structures import Structure, check_structures
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_color import rgb_of_cielab
from OFLSAM2Core.io.dicom_file import (
    LABELMAP_SEGMENTATION,
    DicomFile,
    number_of,
    sequence,
    text_of,
)
from OFLSAM2Core.io.dicom_pixels import stored_pixels
from OFLSAM2Core.io.dicom_table import Frame, frames_of
from OFLSAM2Core.io.image_header import LPS_TO_RAS, unusable
from OFLSAM2Core.io.label_table import MOST_STRUCTURES, default_color
from OFLSAM2Core.runtime.counted import counted

_log = logging.getLogger(__name__)

# Positions are written with few digits (a share of a step).
_UNEVEN = 0.1

_SLICER_LIST = "Segmentation category and type - DICOM master list"
_SLICER_ANATOMY = "Anatomic codes - DICOM master list"


@dataclass(frozen=True)
class _Grid:
    """Slices of the segmentation: the origin (LPS), the step from slice to slice, their number."""

    origin: npt.NDArray[np.float64]
    step: npt.NDArray[np.float64]
    count: int

    def index(self, position: npt.NDArray[np.float64]) -> int:
        length = float(self.step @ self.step)
        return round(float((position - self.origin) @ self.step) / length)


def read_dicom_seg(
    file: DicomFile,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], tuple[Structure, ...]]:
    """Labels (K, J, I) on a grid over all frames, that grid's affine (RAS), the structures.

    Fractional segments count from half on. Where segments overlap, the later one is taken, and that
    is a warning. Frames that are left out are empty. Raises InputError naming the file.
    """
    path = file.path
    frames = frames_of(file)
    grid, affine = _grid(file, frames)
    described = {
        int(number_of(file, "SegmentNumber", item) or 0): item
        for item in sequence(file.header, "SegmentSequence")
    }
    described.pop(0, None)
    structures = _structures(path, described)
    label_of = {number: one.label for number, one in zip(described, structures, strict=True)}
    order = {number: place for place, number in enumerate(described)}
    pixels = stored_pixels(file)
    labels = np.zeros((grid.count, *pixels.shape[1:3]), np.uint8)
    owner = np.full(labels.shape, -1, np.int16)
    is_map = file.sop_class == LABELMAP_SEGMENTATION or (
        text_of(file.header, "SegmentationType") == "LABELMAP"
    )
    threshold = _threshold(file)
    overlap = 0
    per_frame = sequence(file.header, "PerFrameFunctionalGroupsSequence")
    shared = sequence(file.header, "SharedFunctionalGroupsSequence")
    for frame, picture in zip(frames, pixels, strict=True):
        assert frame.position is not None
        plane = grid.index(frame.position)
        if is_map:
            found = [(int(value), picture == value) for value in np.unique(picture) if value]
        else:
            groups = [per_frame[frame.number] if per_frame else Dataset(), *shared]
            found = [(_segment_number(file, groups), picture >= threshold)]
        for number, mask in found:
            if number not in label_of:
                raise unusable(
                    path, f"it has a frame of segment {number}, which it does not describe",
                    "Export the segmentation again.",
                )  # fmt: skip
            overlap += int(np.count_nonzero(mask & (owner[plane] >= 0)))
            mask = mask & (owner[plane] < order[number])
            labels[plane][mask], owner[plane][mask] = label_of[number], order[number]
    if overlap:
        _log.warning(
            "Segments of '%s' overlap in %s; there the later segment is taken.",
            path,
            counted(overlap, "voxel"),
        )
    return labels, affine, structures


def _grid(file: DicomFile, frames: list[Frame]) -> tuple[_Grid, npt.NDArray[np.float64]]:
    """Raises InputError naming the file where frames have no place or lie on no even grid."""
    for frame in frames:
        if frame.position is None or frame.orientation is None or frame.spacing is None:
            raise unusable(
                file.path,
                f"its frame {frame.number + 1} does not say where it lies",
                "Export the segmentation again, with the positions of its frames.",
            )
    turns = np.array([frame.orientation for frame in frames])
    if np.abs(turns - turns[0]).max() > 2e-3:
        raise unusable(file.path, "its frames are turned in different ways", "Export it again.")
    turn, spacing = turns[0], frames[0].spacing
    assert spacing is not None
    normal = np.cross(*turn)
    places = np.array([frame.position for frame in frames], float)
    along = places @ normal
    order = np.argsort(along, kind="stable")
    apart = np.diff(along[order])
    apart = apart[apart > 1e-3]
    origin = places[order[0]]
    extent = float(along[order[-1]] - along[order[0]])
    length = _step(frames[0], apart)
    count = round(extent / length) + 1
    # Slices of a tilted gantry follow each other along the way between their positions.
    way = places[order[-1]] - origin
    step = way / (count - 1) if count > 1 else normal * length
    grid = _Grid(origin, step, count)
    index = np.array([grid.index(place) for place in places])
    off = np.linalg.norm(places - (origin + index[:, None] * step), axis=1)
    if off.max() > max(_UNEVEN * np.linalg.norm(step), 0.05):
        worst = int(off.argmax())
        raise unusable(
            file.path,
            f"its frame {worst + 1} is {off[worst]:.3g} mm from its place in an even grid",
            "Export the segmentation again.",
        )
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = turn[0] * spacing[1], turn[1] * spacing[0], step
    lps[:3, 3] = origin
    return grid, LPS_TO_RAS @ lps


def _step(frame: Frame, apart: npt.NDArray[np.float64]) -> float:
    """Millimetres from slice to slice: what the header says, if the frames' distances are multiples
    of it, else the least of these."""
    for length in (frame.between, frame.thickness):
        if length is not None and length > 0:
            steps = apart / length
            if not len(steps) or np.abs(steps - np.rint(steps)).max() < _UNEVEN:
                return length
    return float(apart.min()) if len(apart) else 1.0


def _segment_number(file: DicomFile, groups: list[Dataset]) -> int:
    for group in groups:
        for item in sequence(group, "SegmentIdentificationSequence"):
            number = number_of(file, "ReferencedSegmentNumber", item)
            if number is not None:
                return int(number)
    raise unusable(file.path, "it has a frame of no segment", "Export the segmentation again.")


def _threshold(file: DicomFile) -> float:
    if text_of(file.header, "SegmentationType") != "FRACTIONAL":
        return 1
    most = number_of(file, "MaximumFractionalValue") or 255
    _log.warning("'%s' holds fractions; segments are where they are at least a half.", file.path)
    return most / 2


def _structures(path: Path, described: dict[int, Dataset]) -> tuple[Structure, ...]:
    if not described:
        raise unusable(path, "it describes no segments", "Export the segmentation again.")
    if len(described) > MOST_STRUCTURES:
        raise InputError(f"'{path}' has {len(described)} segments.", "255 are the most.")
    own = max(described) <= MOST_STRUCTURES
    names: list[str] = []
    structures = []
    for place, (number, item) in enumerate(described.items(), start=1):
        name = text_of(item, "SegmentLabel") or f"Segment {number}"
        if name.casefold() in (known.casefold() for known in names):
            name = f"{name} ({number})"
        names.append(name)
        structures.append(
            Structure(name, number if own else place, _color(item, number), terminology_of(item))
        )
    check_structures(structures, f"The segmentation '{path}'")
    return tuple(structures)


def terminology_of(item: Dataset) -> str:
    """The codes of a segment as Slicer writes them: list~category~type~modifier~list~region~..."""
    category, of_type = (
        sequence(item, f"SegmentedProperty{what}CodeSequence") for what in ("Category", "Type")
    )
    if not category or not of_type:
        return ""
    modifier = sequence(of_type[0], "SegmentedPropertyTypeModifierCodeSequence")
    region = sequence(item, "AnatomicRegionSequence")
    side = sequence(region[0], "AnatomicRegionModifierSequence") if region else []
    codes = [_code(part) for part in (category, of_type, modifier, region, side)]
    return "~".join([_SLICER_LIST, *codes[:3], _SLICER_ANATOMY, *codes[3:]])


def _code(items: list[Dataset]) -> str:
    if not items:
        return "^^"
    value = text_of(items[0], "CodeValue") or text_of(items[0], "LongCodeValue")
    return "^".join(
        [text_of(items[0], "CodingSchemeDesignator"), value, text_of(items[0], "CodeMeaning")]
    )


def _color(item: Dataset, number: int) -> tuple[float, float, float]:
    try:
        coded = [int(part) for part in item.RecommendedDisplayCIELabValue]
        return rgb_of_cielab(coded)
    except (AttributeError, TypeError, ValueError, IndexError):
        return default_color(number)
