"""Phantoms of one body plan: a trunk with a bright organ, and a dark one beside it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume

BRIGHT, DARK = Structure("bright organ", 1), Structure("dark organ", 2)


def patient(
    seed: int, *, dark: bool = True, shape: tuple[int, int, int] = (20, 48, 48)
) -> SupportCase:
    """dark: whether there is the dark organ; its place is trunk otherwise."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)

    def blob(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        centre = tuple(c + rng.normal(0, 0.6) for c in centre)
        radii = tuple(r * rng.uniform(0.92, 1.08) for r in radii)
        away = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
        return away < 1

    trunk = blob((10, 24, 24), (30, 20, 21))
    one, other = blob((10, 22, 18), (5, 7, 6)), blob((10, 26, 30), (4, 6, 5))
    spine = blob((10, 38, 24), (30, 4, 4))
    image = 100.0 * trunk
    image[spine] = 180
    labels = np.zeros(shape, np.uint8)
    if dark:
        image[other], labels[other] = 40, DARK.label
    image[one], labels[one] = 220, BRIGHT.label
    image = ndimage.gaussian_filter(image, 0.6) + rng.normal(0, 5, shape)
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    volume = Volume(image.astype(np.float32), affine, name=f"patient {seed}")
    return SupportCase(volume, labels, (BRIGHT, DARK))


def in_larger(
    case: SupportCase, before: tuple[int, int, int], shape: tuple[int, int, int]
) -> SupportCase:
    """In a larger field of view, of noise, with a trunk that holds no organ beside it."""
    rng = np.random.default_rng(9)
    image = rng.normal(0, 5, shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    here = tuple(slice(b, b + n) for b, n in zip(before, case.labels.shape, strict=True))
    image[here], labels[here] = case.volume.array, case.labels
    volume = Volume(image, case.volume.affine, name=f"{case.name}, larger")
    return SupportCase(volume, labels, case.structures)
