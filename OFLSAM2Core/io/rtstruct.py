"""Contours of radiotherapy (RTSTRUCT) as labels on the grid of their image.

A voxel belongs to a structure where its centre lies within the structure's contours, by the
even-odd rule, so that an inner contour is a hole.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_file import DicomFile, number_of, numbers_of, sequence, text_of
from OFLSAM2Core.io.image_header import LPS_TO_RAS
from OFLSAM2Core.io.label_table import MOST_STRUCTURES, default_color
from OFLSAM2Core.runtime.counted import counted

_log = logging.getLogger(__name__)

# How far from flat along a stored axis a contour may be, in voxels.
_FLAT = 0.3

Contour = npt.NDArray[np.float64]
"""(points, 3): places in the volume's voxels, in numpy's order k, j, i."""


def read_rtstruct(
    file: DicomFile, volume: Volume
) -> tuple[npt.NDArray[np.uint8], tuple[Structure, ...]]:
    """Labels on the grid of `volume`, and the structures with closed contours, in the file's order.

    Contours between two slices count for the nearer one. Where structures overlap, the smaller is
    taken, with a warning. Raises InputError naming the file: no contours, none of them within the
    volume, or contours across its slices.
    """
    contours = _contours(file, volume)
    if not contours:
        raise InputError(
            f"'{file.path}' has no closed contours.", "Give one with at least one structure drawn."
        )
    if len(contours) > MOST_STRUCTURES:
        raise InputError(f"'{file.path}' has {len(contours)} structures.", "255 are the most.")
    structures, masks = [], []
    for label, (name, color, found) in enumerate(contours, start=1):
        mask = _mask(file.path, name, found, volume)
        if not mask.any():
            _log.warning(
                "The contours of '%s' in '%s' hold no voxel of the image; it is left out.",
                name,
                file.path,
            )
            continue
        structures.append(Structure(name, label, color or default_color(label)))
        masks.append(mask)
    if not masks:
        raise InputError(
            f"No contour of '{file.path}' lies within the volume '{volume.source or volume.name}'.",
            "Pick the right pair.",
        )
    labels = np.zeros(volume.grid_shape, np.uint8)
    overlap = 0
    sizes = [np.count_nonzero(mask) for mask in masks]
    for number in sorted(range(len(masks)), key=lambda index: -sizes[index]):
        overlap += int(np.count_nonzero(labels[masks[number]]))
        labels[masks[number]] = structures[number].label
    if overlap:
        _log.warning(
            "Structures of '%s' overlap in %s; there the smaller one is taken.",
            file.path,
            counted(overlap, "voxel"),
        )
    return labels, tuple(structures)


def _contours(
    file: DicomFile, volume: Volume
) -> list[tuple[str, tuple[float, float, float] | None, list[Contour]]]:
    """Name, colour and closed contours of every structure that has some."""
    to_voxels = (np.linalg.inv(volume.affine) @ LPS_TO_RAS)[:3]
    names: dict[int, str] = {}
    for item in sequence(file.header, "StructureSetROISequence"):
        number = number_of(file, "ROINumber", item)
        if number is not None:
            names[int(number)] = text_of(item, "ROIName") or f"ROI {int(number)}"
    found, known = [], set()
    for roi in sequence(file.header, "ROIContourSequence"):
        number = int(number_of(file, "ReferencedROINumber", roi) or 0)
        closed = []
        for item in sequence(roi, "ContourSequence"):
            if text_of(item, "ContourGeometricType") not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                continue
            points = _points(file, item)
            if len(points) >= 3:
                voxels = points @ to_voxels[:, :3].T + to_voxels[:, 3]
                closed.append(voxels[:, ::-1])
        if not closed:
            continue
        name = names.get(number, f"ROI {number}")
        if name.casefold() in known:
            name = f"{name} ({number})"
        known.add(name.casefold())
        found.append((name, _color(file, roi), closed))
    return found


def _points(file: DicomFile, item: Dataset) -> npt.NDArray[np.float64]:
    count = len(item.get("ContourData") or ())
    values = numbers_of(file, "ContourData", count, item) if count else None
    if values is None or count % 3:
        return np.empty((0, 3))
    return values.reshape(-1, 3)


def _color(file: DicomFile, roi: Dataset) -> tuple[float, float, float] | None:
    values = numbers_of(file, "ROIDisplayColor", 3, roi)
    if values is None or values.min() < 0 or values.max() > 255:
        return None
    red, green, blue = (round(float(value) / 255, 4) for value in values)
    return red, green, blue


def _mask(path: Path, name: str, contours: list[Contour], volume: Volume) -> npt.NDArray[np.bool_]:
    """Where a structure is. Contours of one plane are even-odd; planes that fall on one slice are
    joined."""
    axis = _axis(path, name, contours)
    beyond = sum(_is_beyond(contour, volume.grid_shape) for contour in contours)
    if beyond:
        _log.warning(
            "%d of %s of '%s' in '%s' reach beyond the image, where they are cut off. Make sure "
            "that they are of this image.",
            beyond,
            counted(len(contours), "contour"),
            name,
            path,
        )
    mask = np.zeros(volume.grid_shape, np.bool_)
    slices = np.moveaxis(mask, axis, 0)
    planes: dict[float, list[Contour]] = {}
    for contour in contours:
        planes.setdefault(round(float(contour[:, axis].mean()), 1), []).append(contour)
    filled = set()
    for place, in_plane in planes.items():
        index = int(np.floor(place + 0.5))
        if not 0 <= index < len(slices):
            continue
        plane = np.zeros(slices.shape[1:], np.bool_)
        for contour in in_plane:
            plane ^= inside(np.delete(contour, axis, axis=1), plane.shape)
        slices[index] |= plane
        filled.add(index)
    if filled:
        between = max(filled) - min(filled) + 1 - len(filled)
        if between:
            _log.warning(
                "'%s' in '%s' is not drawn on %s between its first and last one; what is not "
                "drawn counts as background.",
                name,
                path,
                counted(between, "slice"),
            )
    return mask


def _is_beyond(contour: Contour, shape: tuple[int, ...]) -> bool:
    """Whether a point lies outside of the image by more than a voxel: contours are drawn around
    the outermost voxels, too."""
    return bool((contour < -1.5).any() or (contour > np.array(shape) + 0.5).any())


def _axis(path: Path, name: str, contours: list[Contour]) -> int:
    """The stored axis that contours are flat along."""
    spread = np.array([np.ptp(contour, axis=0) for contour in contours]).max(axis=0)
    axis = int(spread.argmin())
    if spread[axis] > _FLAT:
        raise InputError(
            f"The contours of '{name}' in '{path}' do not lie in slices of the image.",
            "Export it as a labelmap or a DICOM segmentation.",
        )
    return axis


def inside(polygon: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which pixel centres (row, column) lie within a polygon (points, 2), by the even-odd rule."""
    result = np.zeros(shape, np.bool_)
    one, other = polygon, np.roll(polygon, -1, axis=0)
    first = max(int(np.ceil(polygon[:, 0].min())), 0)
    last = min(int(np.floor(polygon[:, 0].max())), shape[0] - 1)
    for row in range(first, last + 1):
        crosses = (one[:, 0] <= row) != (other[:, 0] <= row)
        start, end = one[crosses], other[crosses]
        columns = start[:, 1] + (row - start[:, 0]) / (end[:, 0] - start[:, 0]) * (
            end[:, 1] - start[:, 1]
        )
        columns.sort()
        for left, right in zip(columns[::2], columns[1::2], strict=True):
            low, high = max(int(np.ceil(left)), 0), min(int(np.ceil(right)), shape[1])
            if low < high:
                result[row, low:high] ^= True
    return result
