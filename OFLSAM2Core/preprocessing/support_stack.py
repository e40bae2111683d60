"""A support case as methods that predict slice by slice use it: preprocessed and cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume


@dataclass(frozen=True, eq=False)
class SupportStack:
    """A support case: preprocessed, cut, with labels as canonical slices.

    labels: (S, H, W), values are `Structure.label`.
    square: the same of an ROI crop around the structures, where one is worth showing.
    across: the same case, cut along the other axes, where that is worth it.
    """

    name: str
    prepared: PreprocessedVolume
    slicing: SliceGeometry
    labels: npt.NDArray
    square: PreprocessedVolume | None = None
    across: tuple[SupportStack, ...] = ()
