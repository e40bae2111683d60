"""Phantom cases with a bright disc and a darker bar, a little elsewhere in every case and slice."""

from __future__ import annotations

import numpy as np

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume

STRUCTURES = (Structure("disc", 1), Structure("bar", 4))


def disc_and_bar(number: int, slices: int = 6, bar_top: int = 45) -> SupportCase:
    """Slices of 60 x 50 pixels, 3 mm apart; the first one is empty."""
    rng = np.random.default_rng(number)
    image = rng.normal(100, 5, (slices, 60, 50))
    labels = np.zeros(image.shape, np.uint8)
    row, column = np.mgrid[:60, :50]
    for index in range(1, slices):
        labels[index][(row - 20 - number - index) ** 2 + (column - 18 - index) ** 2 < 80] = 1
        labels[index][bar_top:52, 10 + number : 40] = 4
    image += 200 * (labels == 1) + 100 * (labels == 4)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    return SupportCase(
        Volume(image.astype(np.float32), affine, f"case{number}"), labels, STRUCTURES
    )
