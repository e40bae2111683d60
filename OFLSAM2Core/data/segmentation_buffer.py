"""The caller's own arrays: what a segmentation has come to so far."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.results import SliceResult, expected_error_voxels
from OFLSAM2Core.data.review_list import slices_to_review
from OFLSAM2Core.data.volume import Volume


class SegmentationBuffer:
    """Labels and confidence on a volume's grid, filled slice by slice.

    labels, confidence: uint8 on the volume's grid; confidence is 0 where no slice has arrived.
    scores: S_cf by structure name, by index along `axis`.
    axis: the stored axis that slices run along; None until the first one.
    seconds: from the making of this object to the last slice; seconds_to_first: to the first.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.labels: npt.NDArray[np.uint8] = np.zeros(volume.grid_shape, np.uint8)
        self.confidence: npt.NDArray[np.uint8] = np.zeros(volume.grid_shape, np.uint8)
        self.scores: dict[int, dict[str, float]] = {}
        self.axis: int | None = None
        self.seconds = 0.0
        self.seconds_to_first = 0.0
        self._started = time.monotonic()

    def add(self, result: SliceResult) -> None:
        """Take a slice in, in place of an earlier revision of it."""
        self.labels[result.index_expression] = result.labels
        self.confidence[result.index_expression] = result.confidence
        self.axis = result.axis
        self.seconds = time.monotonic() - self._started
        if not self.scores:
            self.seconds_to_first = self.seconds
        self.scores[result.index] = dict(result.scores)

    @property
    def slices_done(self) -> int:
        return len(self.scores)

    @property
    def slices_total(self) -> int | None:
        """None before the first slice: only then is the axis known."""
        return None if self.axis is None else self.volume.grid_shape[self.axis]

    @property
    def is_complete(self) -> bool:
        return self.slices_done == self.slices_total

    @property
    def seconds_per_slice(self) -> float:
        return self.seconds / max(1, self.slices_done)

    def min_scores(self) -> dict[int, float]:
        """The lowest S_cf of each slice's structures, by index; 1 for a slice without any."""
        return {index: min(scores.values(), default=1.0) for index, scores in self.scores.items()}

    def expected_error_voxels(self, index: int) -> float:
        """Expected number of wrong voxels in a slice, by its confidence: the sum of 1 - p."""
        return expected_error_voxels(np.moveaxis(self.confidence, self.axis or 0, 0)[index])

    def slices_to_review(self, count: int) -> list[int]:
        """Indices of the slices to look at first; see `review_list`."""
        slices = [
            _Doubted(index, self.expected_error_voxels(index), scores)
            for index, scores in self.scores.items()
        ]
        return [one.index for one in slices_to_review(slices, count)]

    def voxels(self, label: int) -> int:
        """How many voxels a structure has."""
        return int(np.count_nonzero(self.labels == label))

    def milliliters(self, label: int) -> float:
        """Volume of one structure; for a sequence the unit has no meaning."""
        voxel = abs(float(np.linalg.det(self.volume.affine[:3, :3])))
        return self.voxels(label) * voxel / 1000


@dataclass(frozen=True)
class _Doubted:
    index: int
    doubt: float
    scores: dict[str, float]
    frame: int = 0
