"""Volumes made for measuring speed: ellipsoids in noise, as many structures as wanted."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.io.label_table import LabelTable

_BRIGHTNESS = 100.0


def phantom(
    shape: tuple[int, int, int], structures: int, seed: int, name: str = "phantom"
) -> SupportCase:
    """Axial slices of `shape` (slices, height, width) with one ellipsoid a structure, side by side
    through most of the slices; size, place and texture vary with `seed`, as between patients."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    z, y, x = np.ogrid[tuple(slice(length) for length in shape)]
    for number in range(structures):
        middle = random.normal((0.5, 0.5, (number + 0.5) / structures), 0.02)
        radii = random.normal((0.45, 0.3, 0.35 / structures), 0.02).clip(0.02)
        (k, j, i), (c, b, a) = middle * shape, radii * shape
        inside = ((z - k) / c) ** 2 + ((y - j) / b) ** 2 + ((x - i) / a) ** 2 < 1
        labels[inside] = number + 1
    texture = gaussian_filter(random.normal(size=labels.shape).astype(np.float32), 2)
    noise = random.normal(size=labels.shape).astype(np.float32)
    image = _BRIGHTNESS * (1 + labels + 3 * texture + 0.2 * noise)
    volume = Volume(image.clip(0, 32767).astype(np.int16), np.eye(4), name)
    return SupportCase(volume, labels, LabelTable.for_values(range(1, structures + 1)).structures)
