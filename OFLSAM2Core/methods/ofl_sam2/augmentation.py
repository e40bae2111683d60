"""Augmented copies of support slices: what another patient and another scanner may change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

ROTATION = 15.0
"""Degrees, either way."""
SCALE = 0.2
"""Largest logarithm of a change in size."""
SHIFT = 0.06
"""Of the image's side, either way."""


def augment(
    image: npt.NDArray[np.float32], masks: npt.NDArray[np.float32], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A random affine map of image (3, S, S) and masks (N, S, S), and a random grey curve, noise
    and shading of the image; values stay in [0, 1]."""
    size = image.shape[-1]
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    scale = np.exp(rng.uniform(-SCALE, SCALE))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = np.full(2, (size - 1) / 2)
    offset = centre - turn @ (centre + rng.uniform(-SHIFT, SHIFT, 2) * size)

    def moved(plane: npt.NDArray) -> npt.NDArray:
        return ndimage.affine_transform(plane, turn, offset, order=1)

    grey = np.stack([moved(plane) for plane in _distinct(image)])
    grey = _other_scanner(np.clip(grey, 0, 1), rng)
    planes = np.broadcast_to(grey, image.shape)
    return (
        np.ascontiguousarray(planes, dtype=np.float32),
        np.clip(np.stack([moved(mask) for mask in masks]), 0, 1).astype(np.float32),
    )


def _distinct(image: npt.NDArray) -> npt.NDArray:
    """Grey images repeat one channel: it is enough to move that one."""
    grey = np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])
    return image[:1] if grey else image


def _other_scanner(grey: npt.NDArray, rng: np.random.Generator) -> npt.NDArray:
    size = grey.shape[-1]
    inside = grey > 0  # Padding stays black.
    grey = grey ** np.exp(rng.uniform(-0.5, 0.5))
    grey = (grey - 0.5) * np.exp(rng.uniform(-0.35, 0.35)) + 0.5 + rng.uniform(-0.1, 0.1)
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
    tilt = rng.uniform(-0.2, 0.2, 2)
    grey = grey * (1 + tilt[0] * rows + tilt[1] * columns)
    if rng.random() < 0.3:
        grey = ndimage.gaussian_filter(grey, (0, *[rng.uniform(0.3, 1.2)] * 2))
    if rng.random() < 0.3:
        grey = grey + rng.normal(0, rng.uniform(0.01, 0.05), grey.shape)
    return np.where(inside, np.clip(grey, 0, 1), 0)
