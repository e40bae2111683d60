"""The plain data that comes out: slice results and progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class SliceResult:
    """One slice of the segmentation, ready to be written into the caller's own arrays.

    index: position along `axis` in the volume's own grid (numpy order k, j, i).
    axis: 0, 1 or 2, the axis of the (K, J, I) array that the slices run along.
    labels: uint8 (H, W), the volume's two other axes in their stored order; 0 is background,
        other values are `Structure.label`.
    confidence: uint8 (H, W), 255 times the probability of the label shown.
    scores: structure name to S_cf in [0, 1].
    revision: 0 when a slice is reported for the first time; a later report of the same slice
        replaces the earlier one and carries a higher number.
    """

    index: int
    axis: int
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    scores: dict[str, float] = field(default_factory=dict)
    revision: int = 0

    @property
    def index_expression(self) -> tuple[slice | int, ...]:
        """Where it goes: `output[result.index_expression] = result.labels` for a (K, J, I)
        array."""
        where: list[slice | int] = [slice(None)] * 3
        where[self.axis] = self.index
        return tuple(where)

    @property
    def min_score(self) -> float:
        """The least S_cf of the structures in the slice; 1 where it has none."""
        return min(self.scores.values(), default=1.0)

    @property
    def expected_error_voxels(self) -> float:
        """The expected number of wrong voxels, by the confidence."""
        return expected_error_voxels(self.confidence)


def expected_error_voxels(confidence: npt.NDArray[np.uint8]) -> float:
    """The sum of 1 - confidence: where to correct first, as a large slice with an uncertain
    border has more to correct than a small one that is uncertain as a whole."""
    return float(confidence.size) - float(confidence.sum(dtype=np.int64)) / 255


@dataclass(frozen=True)
class Progress:
    """How far a job is. `stage` is one of "read", "encode", "learn", "segment", "finish"."""

    stage: str
    done: int
    total: int
    message: str = ""


ProgressCallback = Callable[[Progress], None]
"""Called often, from the working thread. It may raise `Cancelled` to stop the job."""
