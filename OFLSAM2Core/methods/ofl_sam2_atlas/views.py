"""The views of a volume that the method predicts from, and what it says of a slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """A segmented canonical slice: labels and confidence uint8 (H, W), S_cf by structure name."""

    index: int
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    scores: dict[str, float]
    revision: int = 0


@dataclass(frozen=True, eq=False)
class ExtraViews:
    """Views of a volume besides whole slices, where a task has them.

    closer: from the middle of the structures, row and column in slice pixels, to the square around
        it. across: cut along other axes.
    """

    closer: Callable[[tuple[float, float]], PreprocessedVolume] | None = None
    across: tuple[tuple[PreprocessedVolume, SliceGeometry], ...] = ()
