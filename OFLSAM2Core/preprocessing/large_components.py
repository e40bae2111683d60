"""The components of a mask that are not small beside its largest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def large_pieces(mask: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.bool_]:
    """The components of at least a share of the largest, in voxels. What has a face in common hangs
    together."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= share * sizes.max())[pieces]
