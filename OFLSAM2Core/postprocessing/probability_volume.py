"""Consistency in 3D, once all slices are predicted.

Slices are segmented one by one, so their ends and borders flicker from slice to slice. Averaging
along the slice axis removes that (left atrium, 0.6 mm slices: Dice 0.841 to 0.857). Logits are
averaged, so that confident slices have more weight, which is 0.005 better than averaging
probabilities. Components that do not belong to a structure are removed (`connected_components.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, special
from torch import Tensor

from OFLSAM2Core.postprocessing.confidence import soft_label_competition
from OFLSAM2Core.postprocessing.connected_components import spurious_components
from OFLSAM2Core.postprocessing.expected_dice import HALF, expected_dice
from OFLSAM2Core.postprocessing.intensity_likelihood import evidence

ALONG_THE_BODY = 1.5
"""Millimetres, least deviation of the Gaussian along the slice axis. Where slices are farther apart
it is one slice: predicted one by one they are wrong by themselves, and prostates in slices of 2 to
4 mm gain 0.005 of Dice."""

OF_WIDTH = 0.06
"""Most of that, of a structure's width: averaging logits eats at what is thin, and slices that are
10 mm apart show something else. Hippocampi lose 0.008 by 1.6 mm, and gain 0.001 by 0.8."""

IN_PLANE = 1.0
"""Pixels of the decoder's maps: a quarter of the features' grid, whose steps show otherwise."""

# The logit of each stored byte, at the middle of what is rounded to it.
_LOGITS = np.log((np.arange(256) + 0.5) / (255.5 - np.arange(256))).astype(np.float32)


class ProbabilityVolume:
    """The structures' probabilities of all slices, one byte each, on the network's grid or on a
    part of the volume's own."""

    def __init__(self, values: npt.NDArray[np.uint8]) -> None:
        """values: (N, slices, rows, columns)."""
        self._values = values

    @classmethod
    def of_slices(cls, probabilities: Iterable[Tensor], count: int) -> ProbabilityVolume:
        """From each slice's (N, rows, columns) in [0, 1]. count: of slices, one at least; they are
        put in their place one by one, so that they are never held twice."""
        values = np.empty(0, np.uint8)
        for index, each in enumerate(probabilities):
            if index == 0:
                values = np.empty((len(each), count, *each.shape[1:]), np.uint8)
            values[:, index] = _bytes(each)
        return cls(values)

    @property
    def values(self) -> npt.NDArray[np.uint8]:
        """(N, slices, rows, columns), probabilities in bytes."""
        return self._values

    @property
    def count(self) -> int:
        """How many slices there are."""
        return self._values.shape[1]

    def smoothed(self, widths: Sequence[float], spacing: float) -> ProbabilityVolume:
        """Averaged with the neighbourhood, along the slice axis as `axial_sigma` says.

        widths: of structures, `structure_width`. spacing: of slices, mm.
        """
        averaged = np.empty_like(self._values)
        for own, values, width in zip(averaged, self._values, widths, strict=True):
            deviations = (axial_sigma(width, spacing) / spacing, IN_PLANE, IN_PLANE)
            # In single precision and one structure at a time: 200 slices are 52 MB.
            smooth = ndimage.gaussian_filter(_LOGITS[values], deviations, mode="nearest")
            own[:] = np.round(255 * special.expit(smooth))
        return ProbabilityVolume(averaged)

    def with_intensity_likelihood(
        self, stack: npt.NDArray, touched: Sequence[Sequence[int]]
    ) -> ProbabilityVolume:
        """Every voxel near a structure judged once more by how bright structures and what is beside
        them are where they were predicted; see `evidence`.

        stack: the intensities, (slices, rows, columns).
        """
        cpu = torch.device("cpu")
        background = np.empty(self._values.shape[1:], np.uint8)
        for index in range(self.count):
            background[index] = _bytes(soft_label_competition(self.slice(index, cpu))[0])
        judged = self._values.copy()
        for found in evidence(self._values, background, stack, touched):
            own = judged[found.structure][found.box]
            own[found.near] = np.round(255 * special.expit(_LOGITS[own[found.near]] + found.ratios))
        return ProbabilityVolume(judged)

    def expected_dice(self) -> npt.NDArray[np.float64]:
        """The expected Dice of each structure, predicted from one half on, if probabilities are
        true, (N,)."""
        return np.array([expected_dice(own) for own in self._counts()])

    def remove_spurious_components(
        self, single: Sequence[bool], touched: Sequence[Sequence[int]]
    ) -> None:
        """Predicted components that do not belong to a structure become background for certain, in
        place; see `spurious_components`."""
        masks = (own >= HALF for own in self._values)
        found = spurious_components(masks, single, touched)
        for values, spurious in zip(self._values, found, strict=True):
            values[spurious.box][spurious.voxels] = 0

    def areas(self) -> npt.NDArray[np.int64]:
        """Pixels of each structure in each slice: (N, slices)."""
        return (self._values >= HALF).sum(axis=(2, 3))

    def highest(self) -> npt.NDArray[np.float64]:
        """Probability of each structure where it is highest in each slice: (N, slices)."""
        return self._values.max(axis=(2, 3)) / 255

    def slice(self, index: int, device: torch.device) -> Tensor:
        """(N, rows, columns) in [0, 1]."""
        return torch.from_numpy(self._values[:, index]).to(device).float() / 255

    def _counts(self) -> list[npt.NDArray[np.int64]]:
        """Voxels of each structure by their value, (256,); zeros are not counted."""
        return [np.bincount(own[own > 0], minlength=256) for own in self._values]


def structure_width(areas: Sequence[npt.NDArray], pixels: Sequence[float]) -> float:
    """A structure's width in mm: the side of a square as large as its largest section.

    areas: its pixels in each slice, (slices,), of the support cases. pixels: of each case, the
    area of a pixel in mm2.
    """
    largest = max(own.max() * pixel for own, pixel in zip(areas, pixels, strict=True))
    return float(np.sqrt(largest))


def axial_sigma(width: float, spacing: float) -> float:
    """By how many mm a structure is averaged along the slice axis, in slices `spacing` mm apart."""
    return min(max(ALONG_THE_BODY, spacing), OF_WIDTH * width)


def as_bytes(shares: Tensor) -> Tensor:
    """From [0, 1] to 0 to 255."""
    return (shares * 255).round().to(torch.uint8)


def _bytes(probabilities: Tensor) -> npt.NDArray[np.uint8]:
    return as_bytes(probabilities).cpu().numpy()
