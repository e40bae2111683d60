"""What a person corrected in a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.errors import InputError


@dataclass(frozen=True, eq=False)
class Corrections:
    """Voxels whose labels a person has set.

    labels: unsigned integers on the volume's grid (K, J, I), values are `Structure.label` of the
        task; they are truth where `known` is set, and say nothing elsewhere.
    known: bool, the same shape. A voxel that was erased is known and has the label 0.
    image: the `image_identity` of the volume whose result was corrected; "" where it is not known.
        Corrections of another image are then refused.
    """

    labels: npt.NDArray
    known: npt.NDArray[np.bool_]
    image: str = ""

    def __post_init__(self) -> None:
        if self.labels.shape != self.known.shape:
            raise InputError(
                f"The corrected labels have {self.labels.shape} voxels (k, j, i), the mask of what "
                f"was corrected {self.known.shape}.",
                "Give both on the grid of the volume.",
            )

    @classmethod
    def from_slices(cls, labels: npt.NDArray, axis: int, indices: Iterable[int]) -> Corrections:
        """Whole slices, at `indices` along `axis` of the (K, J, I) array, are truth."""
        known = np.zeros(labels.shape, bool)
        np.moveaxis(known, axis, 0)[list(indices)] = True
        return cls(labels, known)

    @classmethod
    def from_difference(cls, result: npt.NDArray, corrected: npt.NDArray) -> Corrections:
        """The voxels in which a corrected segmentation differs from the result are truth."""
        if result.shape != corrected.shape:
            raise InputError(
                f"The corrected segmentation has {corrected.shape} voxels (k, j, i), the result "
                f"{result.shape}.",
                "Correct the result on its own grid.",
            )
        return cls(corrected, corrected != result)

    def whole_slices(self, axis: int) -> list[int]:
        """Indices along `axis` of the slices in which every voxel is known."""
        others = tuple(other for other in range(3) if other != axis)
        return np.flatnonzero(self.known.all(axis=others)).tolist()
