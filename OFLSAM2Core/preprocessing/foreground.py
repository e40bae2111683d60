"""Where in its slices a volume shows anything: the body, without the air around it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.preprocessing.large_components import large_pieces
from OFLSAM2Core.preprocessing.letterbox import Box

LONGEST = 128
"""Voxels along a side that are looked at: a body is found as well on a coarser grid."""

BRIGHT = 99
"""Percentile of the intensities above which it does not matter how bright: with metal or a coil
near the skin, Otsu's threshold would be one between tissues."""

PART_OF_BODY = 0.25
"""Share of the largest component from which on another one is kept: legs, and arms beside a trunk,
are as large, and a table is not."""


def foreground_bbox(stack: npt.NDArray) -> Box:
    """The part of the slices in which the body lies, in all of them together: the large components
    of what is not air. The whole slice where there is no such thing.

    stack: canonical slices (S, H, W).
    """
    import SimpleITK as sitk

    _, rows, columns = stack.shape
    steps = [max(1, -(-length // LONGEST)) for length in stack.shape]
    some = stack[:: steps[0], :: steps[1], :: steps[2]].astype(np.float32)
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(np.minimum(some, np.percentile(some, BRIGHT))))
    bright = some > otsu.GetThreshold()
    if not bright.any():
        return 0, rows, 0, columns
    _, down, across = bounding_box(large_pieces(bright, PART_OF_BODY))
    # It may begin and end anywhere between the voxels that were looked at.
    return (
        max((down.start - 1) * steps[1] + 1, 0),
        min(down.stop * steps[1], rows),
        max((across.start - 1) * steps[2] + 1, 0),
        min(across.stop * steps[2], columns),
    )
