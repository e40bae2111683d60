"""How a grid is cut into canonical slices, and put together again exactly.

Slices look as they do in Slicer's standard views, whatever the order and direction in which the
voxels are stored:

| axis     | slices run          | rows run (top to bottom) | columns run (left to right) |
|----------|---------------------|--------------------------|-----------------------------|
| axial    | inferior - superior | anterior - posterior     | right - left                |
| coronal  | posterior - anterior| superior - inferior      | right - left                |
| sagittal | left - right        | superior - inferior      | anterior - posterior        |
| frame    | first - last        | as stored                | as stored (sequences)       |

Only axes are permuted and flipped (the closest to the world's, where the grid is oblique), so
nothing is interpolated and `from_slices` is the exact inverse of `to_slices`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.validation import check_geometry
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

ORIENTATIONS = ("sagittal", "coronal", "axial")
FRAME_AXIS = "frame"

# For each world axis: (world axis, direction in RAS) of slices, rows and columns.
_VIEWS = {
    "sagittal": ((0, 1), (2, -1), (1, -1)),
    "coronal": ((1, 1), (2, -1), (0, -1)),
    "axial": ((2, 1), (1, -1), (0, -1)),
}

# Slices 1.3 times as far apart as pixels are: a scan made of slices, to be read the way it was
# made. Below that (reformatted or isotropic scans) readers expect axial slices.
_THICK = 1.3


@dataclass(frozen=True)
class SliceGeometry:
    """How one grid is cut into slices.

    orientation: "sagittal", "coronal", "axial", or "frame" for a sequence. The learned task keeps
        this word, and every target is cut along the same world axis.
    order: stored (numpy) axes that slices, rows and columns run along.
    flipped: which of the three run against the stored direction.
    shape: canonical shape (slices, rows, columns).
    steps: millimetres from slice to slice, row to row, column to column.
    """

    orientation: str
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    shape: tuple[int, int, int]
    steps: tuple[float, float, float]

    @classmethod
    def for_volume(cls, volume: Volume, axis: str = "auto") -> SliceGeometry:
        """`axis`: a world axis, or "auto": the through-plane axis of the scan, else axial.

        Raises InputError for an unknown axis, a sequence where a world axis is asked for (or the
        other way round), and geometry that cannot be inverted.
        """
        known = (*ORIENTATIONS, FRAME_AXIS, "auto")
        if axis not in known:
            raise InputError(
                f"There is no slicing axis '{axis}'.", f"Use one of: {', '.join(known)}."
            )
        if volume.is_sequence != (axis == FRAME_AXIS) and axis != "auto":
            what = "a sequence of frames" if volume.is_sequence else "a volume"
            raise InputError(
                f"'{volume.name}' is {what} and cannot be cut along the axis '{axis}'.",
                "Use a task learned from the same kind of images, or the slicing axis 'auto'.",
            )
        check_geometry(volume)
        if volume.is_sequence:
            return cls(
                FRAME_AXIS, (0, 1, 2), (False, False, False), volume.grid_shape, (1.0, 1.0, 1.0)
            )
        stored, direction = _closest_axes(volume)
        spacing = volume.spacing[::-1]
        world_spacing = tuple(spacing[axis_] for axis_ in stored)
        view = _VIEWS[_through_plane(world_spacing) if axis == "auto" else axis]
        order = _three(stored[world] for world, _ in view)
        return cls(
            orientation=ORIENTATIONS[view[0][0]],
            order=order,
            flipped=_three(direction[world] != wanted for world, wanted in view),
            shape=_three(volume.grid_shape[axis_] for axis_ in order),
            steps=_three(spacing[axis_] for axis_ in order),
        )

    @property
    def axis(self) -> int:
        """The axis of the stored (K, J, I) array that slices run along."""
        return self.order[0]

    @property
    def count(self) -> int:
        return self.shape[0]

    @property
    def slice_shape(self) -> tuple[int, int]:
        """(H, W) of a canonical slice."""
        return self.shape[1:]

    @property
    def slice_spacing(self) -> float:
        """Millimetres from slice to slice."""
        return self.steps[0]

    @property
    def spacing_in_plane(self) -> tuple[float, float]:
        """Millimetres per row step and per column step."""
        return self.steps[1:]

    def to_slices(self, array: npt.NDArray) -> npt.NDArray:
        """Stored (K, J, I) or (T, H, W, 3) to canonical slices (S, H, W[, 3]). A view."""
        rest = tuple(range(3, array.ndim))
        return array.transpose(self.order + rest)[self._flips]

    def from_slices(self, stack: npt.NDArray) -> npt.NDArray:
        """The exact inverse of `to_slices`. A view."""
        inverse = tuple(int(axis) for axis in np.argsort(self.order))
        return stack[self._flips].transpose(inverse + tuple(range(3, stack.ndim)))

    def index_in_volume(self, index: int) -> int:
        """Where canonical slice `index` lies along the stored `axis`."""
        return self.count - 1 - index if self.flipped[0] else index

    def slice_to_volume_axes(self, plane: npt.NDArray) -> npt.NDArray:
        """A canonical (H, W) plane with its axes in stored order, as `SliceResult` wants it."""
        flips = tuple(slice(None, None, -1 if flip else None) for flip in self.flipped[1:])
        plane = plane[flips]
        return plane if self.order[1] < self.order[2] else plane.swapaxes(0, 1)

    @property
    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else None) for flip in self.flipped)


def validate_slice_count(volume: Volume, slicing: SliceGeometry) -> None:
    """There must be a slice with pixels in it.

    Raises InputError naming the volume.
    """
    if 0 in slicing.shape:
        raise InputError(
            f"'{volume.source or volume.name}' has {slicing.count} {slicing.orientation} slice"
            f"{'' if slicing.count == 1 else 's'} of {slicing.shape[1]} x {slicing.shape[2]} "
            "pixels.",
            "Give a whole volume, or choose another slicing axis.",
        )


def _closest_axes(volume: Volume) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For R, A, S: the stored numpy axis closest to it, and its direction (1 or -1)."""
    columns = np.asarray(volume.affine, dtype=np.float64)[:3, :3]
    cosines = columns / np.linalg.norm(columns, axis=0)
    best = max(
        permutations(range(3)),
        key=lambda ijk: sum(abs(cosines[world, ijk[world]]) for world in range(3)),
    )
    direction = tuple(1 if cosines[world, best[world]] > 0 else -1 for world in range(3))
    return tuple(2 - axis for axis in best), direction


def _through_plane(world_spacing: tuple[float, ...]) -> str:
    """The world axis whose spacing clearly stands out. Compared with the larger of the other
    two: planning CTs with 5 mm pixels and 2.5 mm slices are still made of axial slices."""
    order = np.argsort(world_spacing)
    if world_spacing[order[2]] > _THICK * world_spacing[order[1]]:
        return ORIENTATIONS[order[2]]
    return "axial"


def _three(values: Iterable[_T]) -> tuple[_T, _T, _T]:
    one, two, three = values
    return one, two, three


def support_geometries(cases: Sequence[SupportCase], axis: str = "auto") -> list[SliceGeometry]:
    """How support cases are cut: all along one axis.

    axis: as `SliceGeometry.for_volume` takes it; "auto" is the axis along which most of the cases
        would be cut by themselves, the first case's where as many would be cut along another.
    Raises InputError where a case cannot be cut so, or has too few slices.
    """
    own = [SliceGeometry.for_volume(case.volume, axis).orientation for case in cases]
    common = max(own, key=own.count)
    if own.count(common) < len(own):
        logger.warning(
            "The support cases were scanned along different axes (%s); all are cut into %s slices.",
            ", ".join(own),
            common,
        )
    geometries = [SliceGeometry.for_volume(case.volume, common) for case in cases]
    for case, geometry in zip(cases, geometries, strict=True):
        validate_slice_count(case.volume, geometry)
    return geometries
