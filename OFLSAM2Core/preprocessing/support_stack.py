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
    """

    name: str
    prepared: PreprocessedVolume
    slicing: SliceGeometry
    labels: npt.NDArray
