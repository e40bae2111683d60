"""How well a segmentation agrees with the truth: Dice, and distances between surfaces.

The surface distances are MONAI's, the average Hausdorff distance SimpleITK's
(docs/decisions/0001-dependencies.md). All work on the box around both masks, so that a small
structure in a large volume costs little.

Where a mask is empty:

| truth | prediction | Dice | distances |
|---|---|---|---|
| empty | empty | nan: there was nothing to find, and nothing was | nan |
| empty | predicted | 0 | nan |
| labelled | empty | 0 | nan |

A mean over cases leaves the nan out and must say how many it left out.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.overlap import Mask, as_masks, bounding_box, dice

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class SegmentationMetrics:
    """One structure of one case.

    dice: 0 to 1.
    hd95: the larger of the two directed 95th percentiles of surface distances.
    average_hausdorff: the mean distance from a voxel of one mask to the other mask, averaged
        over the two directions, as SimpleITK's Hausdorff filter gives it.
    assd: average symmetric surface distance, over the surface voxels of both masks.

    status: "found" where both masks have voxels, "empty" where nothing was found of what is there,
        "absent" where there was nothing to find, "unexpected" where something was predicted then.

    Distances have the unit of the spacing. See the module for empty masks.
    """

    dice: float
    hd95: float
    average_hausdorff: float
    assd: float
    status: str = "found"

    def to_json(self) -> dict[str, float | str | None]:
        """nan becomes null, since JSON has no nan."""
        values = asdict(self)
        return {name: None if value != value else value for name, value in values.items()}


def compute_metrics(
    truth: npt.NDArray, prediction: npt.NDArray, spacing: Spacing
) -> SegmentationMetrics:
    """Compare two masks of one shape (K, J, I); `spacing` along k, j, i."""
    truth, prediction = as_masks(truth, prediction)
    if not truth.any() or not prediction.any():
        nothing = float("nan")
        status = "empty" if truth.any() else "unexpected" if prediction.any() else "absent"
        return SegmentationMetrics(dice(truth, prediction), nothing, nothing, nothing, status)
    box = bounding_box(truth | prediction)
    truth, prediction = np.pad(truth[box], 1), np.pad(prediction[box], 1)
    hd95, assd = _surface_distances(truth, prediction, spacing)
    return SegmentationMetrics(
        dice=dice(truth, prediction),
        hd95=hd95,
        average_hausdorff=_average_hausdorff(truth, prediction, spacing),
        assd=assd,
    )


def _surface_distances(truth: Mask, prediction: Mask, spacing: Spacing) -> tuple[float, float]:
    """(hd95, assd). The masks must not touch the array's border."""
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    one, other = (torch.from_numpy(mask)[None, None] for mask in (prediction, truth))
    with warnings.catch_warnings():
        # MONAI 1.6 calls a function of its own by an argument that it deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=spacing
        )
        assd = compute_average_surface_distance(
            one, other, include_background=True, symmetric=True, spacing=spacing
        )
    return float(hd95), float(assd)


def _average_hausdorff(truth: Mask, prediction: Mask, spacing: Spacing) -> float:
    """Mean of the two mean distances from the voxels of one to the other."""
    from scipy.ndimage import distance_transform_edt

    there = distance_transform_edt(~prediction, sampling=spacing)[truth].mean()
    back = distance_transform_edt(~truth, sampling=spacing)[prediction].mean()
    return float(there + back) / 2
