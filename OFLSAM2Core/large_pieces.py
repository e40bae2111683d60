"""The pieces of a mask that are not small beside its largest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def large_pieces(
    mask: npt.NDArray[np.bool_], share: float, neighbours: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """The pieces of at least a share of the largest, in voxels.

    neighbours: a structuring element, of as many dimensions as the mask and three a side, as
    `scipy.ndimage.label` takes it: what hangs together with its middle; default: what has a face
    in common with it.
    """
    pieces, count = ndimage.label(mask, neighbours)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= share * sizes.max())[pieces]
