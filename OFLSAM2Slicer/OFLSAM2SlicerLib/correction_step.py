"""One step of learning from corrections, and the way back from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2SlicerLib.confidence import ConfidenceWriter
from OFLSAM2SlicerLib.review import SliceScores
from OFLSAM2SlicerLib.segmentation_writer import SegmentationWriter


@dataclass(frozen=True, eq=False)
class _Before:
    """A slice before the step: labels as the segments held them, as they were written last, and
    their confidence (None without one)."""

    held: npt.NDArray[np.uint8]
    written: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None


class CorrectionStep:
    """Remembers the slices that a step overwrites, so that only these are put back.

    known: indices, along an axis, of the slices whose labels are truth. They are not touched.
    has_arrived: whether a slice has come of it.
    """

    def __init__(
        self,
        writer: SegmentationWriter,
        confidence: ConfidenceWriter | None,
        scores: SliceScores,
        axis: int,
        known: set[int],
    ) -> None:
        self.known = known
        self._axis = axis
        self.has_arrived = False
        self._writer = writer
        self._confidence = confidence
        self._scores = scores
        self._scores_before = scores.state()
        self._before: dict[tuple[int, int], _Before] = {}

    def knows(self, result: SliceResult) -> bool:
        return result.axis == self._axis and result.index in self.known

    def remember(self, result: SliceResult) -> None:
        """To be called before a slice is written."""
        place = result.index_expression
        if (result.axis, result.index) in self._before:
            return
        confidence = self._confidence.values(place) if self._confidence is not None else None
        self._before[result.axis, result.index] = _Before(
            self._writer.labels_at(place), self._writer.written_at(place), confidence
        )

    def take_back(self) -> None:
        for (axis, index), before in self._before.items():
            place = tuple(index if other == axis else slice(None) for other in range(3))
            self._writer.put_back(place, before.held, before.written)
            if self._confidence is not None and before.confidence is not None:
                self._confidence.put_back(place, before.confidence)
        self._scores.restore(self._scores_before)
