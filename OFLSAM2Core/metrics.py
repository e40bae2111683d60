"""How well a segmentation agrees with the truth: Dice, and distances between surfaces.

The surface distances are MONAI's, the average Hausdorff distance SimpleITK's
(docs/decisions/0001-dependencies.md). All work on the box around both masks, so that a small
structure in a large volume costs little.

Where a mask is empty:

| truth | prediction | Dice | distances |
|---|---|---|---|
| empty | empty | nan: there was nothing to find, and nothing was | nan |
| empty | drawn | 0 | nan |
| drawn | empty | 0 | nan |

A mean over cases leaves the nan out and must say how many it left out.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Agreement:
    """One structure of one case.

    dice: 0 to 1.
    hd95: the larger of the two directed 95th percentiles of surface distances.
    average_hausdorff: the mean distance from a voxel of one mask to the other mask, averaged
        over the two directions, as SimpleITK's Hausdorff filter gives it.
    assd: average symmetric surface distance, over the surface voxels of both masks.

    Distances have the unit of the spacing. See the module for empty masks.
    """

    dice: float
    hd95: float
    average_hausdorff: float
    assd: float

    def to_json(self) -> dict[str, float | None]:
        """nan becomes null, since JSON has no nan."""
        values = asdict(self)
        return {name: None if np.isnan(value) else value for name, value in values.items()}


def agreement(truth: npt.NDArray, prediction: npt.NDArray, spacing: Spacing) -> Agreement:
    """Compare two masks of one shape (K, J, I); `spacing` along k, j, i."""
    truth, prediction = _as_masks(truth, prediction)
    if not truth.any() or not prediction.any():
        nothing = float("nan")
        return Agreement(dice(truth, prediction), nothing, nothing, nothing)
    box = bounding_box(truth | prediction)
    truth, prediction = np.pad(truth[box], 1), np.pad(prediction[box], 1)
    hd95, assd = _surface_distances(truth, prediction, spacing)
    return Agreement(
        dice=dice(truth, prediction),
        hd95=hd95,
        average_hausdorff=_average_hausdorff(truth, prediction, spacing),
        assd=assd,
    )


def dice(truth: npt.NDArray, prediction: npt.NDArray) -> float:
    """Twice the overlap over the sum of sizes; nan where both are empty. Any shape."""
    truth, prediction = _as_masks(truth, prediction)
    total = np.count_nonzero(truth) + np.count_nonzero(prediction)
    if total == 0:
        return float("nan")
    return 2.0 * np.count_nonzero(truth & prediction) / total


def bounding_box(mask: npt.NDArray, room: int = 0) -> tuple[slice, ...]:
    """The box that holds all of a mask, with `room` voxels around it where the array goes on;
    everything where the mask is empty."""
    box = []
    for axis, length in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if len(found) == 0:
            return (slice(None),) * mask.ndim
        box.append(slice(max(0, int(found[0]) - room), min(length, int(found[-1]) + 1 + room)))
    return tuple(box)


def _as_masks(truth: npt.NDArray, prediction: npt.NDArray) -> tuple[Mask, Mask]:
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth has the shape {truth.shape}, not {prediction.shape}")
    return truth.astype(bool, copy=False), prediction.astype(bool, copy=False)


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
    import SimpleITK as sitk

    images = []
    for mask in (truth, prediction):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        images.append(image)
    distances = sitk.HausdorffDistanceImageFilter()
    distances.Execute(*images)
    return float(distances.GetAverageHausdorffDistance())
