"""Grey values of the further co-registered volumes of a case, each a channel of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.preprocessing.intensity_mapping import (
    IntensityMapping,
    detect_modality,
    fit_intensity_mapping,
    percentile_window,
)

FurtherCurves = tuple[IntensityMapping | None, ...]
"""For each further volume one curve for all patients (CT), or None: each by its own percentiles."""


def further_stacks(volume: Volume, slicing: SliceGeometry) -> tuple[npt.NDArray, ...]:
    """Canonical slices (S, H, W) of each further volume, which lies on the first one's grid."""
    return tuple(slicing.to_slices(each.array) for each in volume.further)


def fit_further_curves(
    stacks: Sequence[Sequence[npt.NDArray]],
    labels: Sequence[npt.NDArray],
    steps: Sequence[tuple[float, float, float]],
) -> FurtherCurves:
    """stacks: of each support case, its further volumes. labels: canonical slices of each case.
    steps: millimetres between slices, rows and columns of each."""
    return tuple(
        fit_intensity_mapping(own, labels, steps) if detect_modality(own) == "CT" else None
        for own in zip(*stacks, strict=True)
    )


def with_curves(
    stacks: Sequence[npt.NDArray], curves: FurtherCurves, counted: Any = np.s_[:]
) -> tuple[tuple[npt.NDArray, IntensityMapping], ...]:
    """Each stack with its curve. counted: the part of it whose grey values count."""
    return tuple(
        (stack, curve or percentile_window(stack[counted]))
        for stack, curve in zip(stacks, curves, strict=True)
    )


def further_curves_from(data: Sequence[Any]) -> FurtherCurves:
    """From JSON. Raises TypeError or ValueError."""
    return tuple(None if curve is None else _curve_from(curve) for curve in data)


def _curve_from(data: Any) -> IntensityMapping:
    intensities, greys = (tuple(float(each) for each in part) for part in data)
    return intensities, greys
