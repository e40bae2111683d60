"""Scores of the slices of a run, which of them to look at first, and the way there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.review_list import doubted_structure, slices_to_review
from OFLSAM2Core.data.structures import Structure
from OFLSAM2SlicerLib import geometry


@dataclass(frozen=True)
class ScoredSlice:
    """index: along `axis` of the (K, J, I) grid. confidence: the least of its structures', 0 to 1.

    doubt: how many wrong voxels the confidence foretells.
    structure: the one with the least confidence. center: (k, j, i) of what was labelled there.
    frame: of a sequence of volumes, from 0.
    """

    index: int
    axis: int
    confidence: float
    doubt: float
    structure: str
    scores: dict[str, float]
    center: tuple[float, float, float]
    frame: int = 0


class SliceScores:
    """The scores of the slices of a run.

    changes: counts the reports, so that a table is filled again only where there was one.
    """

    def __init__(self, structures: Sequence[Structure]) -> None:
        self.structures = tuple(structures)
        self.changes = 0
        self._slices: dict[tuple[int, int], ScoredSlice] = {}

    def __len__(self) -> int:
        return len(self._slices)

    def add(self, result: SliceResult, frame: int = 0) -> None:
        """A later report of the same slice of the same frame replaces the earlier."""
        self.changes += 1
        self._slices[frame, result.index] = ScoredSlice(
            index=result.index,
            axis=result.axis,
            confidence=result.min_score,
            doubt=result.expected_error_voxels,
            structure=doubted_structure(result.scores),
            scores=dict(result.scores),
            center=_center(result),
            frame=frame,
        )

    def state(self) -> dict[tuple[int, int], ScoredSlice]:
        """What is known now, to be given to `restore`."""
        return dict(self._slices)

    def restore(self, state: dict[tuple[int, int], ScoredSlice]) -> None:
        self.changes += 1
        self._slices = dict(state)

    def all(self) -> list[ScoredSlice]:
        return [self._slices[place] for place in sorted(self._slices)]

    @property
    def has_several_frames(self) -> bool:
        """Whether any of the slices is of another frame than the first."""
        return any(frame for frame, _index in self._slices)

    def most_doubtful(self, count: int = 10) -> list[ScoredSlice]:
        """Those with the most voxels in doubt first, and not side by side (`review_list`).

        Not the least confident: these are the small ends of a structure, and few of the wrong
        voxels lie there (docs/accuracy.md).
        """
        return slices_to_review(self._slices.values(), count)

    def write_table(self, table_node: Any) -> None:
        """One row a slice: its number (and its frame's, where there are several), voxels in doubt,
        and the confidence in each structure."""
        table_node.RemoveAllColumns()
        columns = [
            ("Frame", [float(one.frame) for one in self.all()]),
            ("Slice", [float(one.index) for one in self.all()]),
            ("Voxels in doubt", [one.doubt for one in self.all()]),
        ]
        if not self.has_several_frames:
            del columns[0]
        for structure in self.structures:
            values = [one.scores.get(structure.name, float("nan")) for one in self.all()]
            columns.append((structure.name, values))
        for name, values in columns:
            column = vtk.vtkDoubleArray()
            column.SetName(name)
            column.SetNumberOfValues(len(values))
            for row, value in enumerate(values):
                column.SetValue(row, value)
            table_node.AddColumn(column)


def slice_center_in_world(volume_node: Any, scored: ScoredSlice) -> npt.NDArray[np.float64]:
    """RAS of the middle of what was labelled in the slice, parent transforms included."""
    k, j, i = scored.center
    local = geometry.volume_to_local(volume_node) @ np.array([i, j, k, 1.0])
    world = [0.0, 0.0, 0.0]
    volume_node.TransformPointToWorld(local[:3].tolist(), world)
    return np.array(world)


def offset_in_words(volume_node: Any, scored: ScoredSlice) -> str:
    """Where the slice is, in millimetres, as the slice views name it: "S 12.5 mm"."""
    normal = np.abs(geometry.volume_to_local(volume_node)[:3, 2 - scored.axis])
    axis = int(normal.argmax())
    place = float(slice_center_in_world(volume_node, scored)[axis])
    return f"{('RL', 'AP', 'SI')[axis][place < 0]} {abs(place):.1f} mm"


def jump_to(volume_node: Any, scored: ScoredSlice) -> None:
    """Have all slice views go through the slice."""
    right, anterior, superior = slice_center_in_world(volume_node, scored)
    slicer.vtkMRMLSliceNode.JumpAllSlices(
        volume_node.GetScene(), right, anterior, superior, slicer.vtkMRMLSliceNode.OffsetJumpSlice
    )


def _center(result: SliceResult) -> tuple[float, float, float]:
    labelled = result.labels.astype(bool)
    in_plane = [_middle(np.any(labelled, axis=1)), _middle(np.any(labelled, axis=0))]
    in_plane.insert(result.axis, float(result.index))
    return (in_plane[0], in_plane[1], in_plane[2])


def _middle(line: npt.NDArray[np.bool_]) -> float:
    """The middle of what is labelled, or of the whole line where nothing is."""
    places = np.flatnonzero(line)
    return float(places.mean()) if places.size else (len(line) - 1) / 2
