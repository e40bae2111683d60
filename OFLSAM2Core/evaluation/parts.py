"""Parts of a structure, each by itself: how many of them are found, and how many are false.

Dice hardly knows a lesion of a few voxels beside a large one. So lesions are counted as well, as in
the MICCAI challenge on white-matter hyperintensities (Kuijf et al., IEEE TMI 2019, "lesion recall"
and its counterpart for precision).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from OFLSAM2Core.data.overlap import Mask, as_masks

TOUCHING = np.ones((3, 3, 3), bool)
"""Voxels that share a corner belong to one part."""


@dataclass(frozen=True)
class PartAgreement:
    """One structure of one case.

    true: parts in the reference. found: of them, those that the segmentation overlaps. predicted:
    parts in the segmentation. false: of them, those that overlap no part of the reference.

    ```python
    parts = count_parts(reference == 1, labels == 1)
    print(f"{parts.found} of {parts.true} lesions, {parts.false} false ones")
    ```
    """

    true: int
    found: int
    predicted: int
    false: int

    @property
    def recall(self) -> float:
        """Share of the reference's parts that are found; nan where it has none."""
        return self.found / self.true if self.true else float("nan")

    @property
    def precision(self) -> float:
        """Share of the predicted parts that are not false; nan where nothing was predicted."""
        return 1 - self.false / self.predicted if self.predicted else float("nan")


def count_parts(truth: Mask, prediction: Mask) -> PartAgreement:
    """Compare two masks of one shape (K, J, I), part by part. One voxel in common is enough."""
    truth, prediction = as_masks(truth, prediction)
    of_truth, true = ndimage.label(truth, TOUCHING)
    of_prediction, predicted = ndimage.label(prediction, TOUCHING)
    found = np.unique(of_truth[truth & prediction])
    right = np.unique(of_prediction[truth & prediction])
    return PartAgreement(int(true), len(found), int(predicted), int(predicted) - len(right))
