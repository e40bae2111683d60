"""SimpleITK at the border: arrays to images, RAS to LPS.

Inside this package world coordinates are RAS (as in Slicer); SimpleITK's are LPS.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from OFLSAM2Core.io.image_header import LPS_TO_RAS


def image_of(array: npt.NDArray, affine: npt.NDArray[np.float64]) -> sitk.Image:
    """A SimpleITK image of a (K, J, I) array on the grid of a RAS affine."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image
