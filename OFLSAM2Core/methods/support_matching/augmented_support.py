"""Copies of a support slice: affine on image and mask, then colour on the image alone.

The paper names the changes (rotation, scale, shear, translation; brightness, contrast, saturation,
hue) and not their ranges, which are chosen here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

ROTATION, SHEAR = 15.0, 8.0
"""Degrees, either way."""
SCALE = 0.15
"""Largest logarithm of a change in size."""
SHIFT = 0.08
"""Largest shift, as share of the image's side, either way."""
COLOUR = 0.2
"""Largest relative change of brightness, contrast and saturation."""
HUE = 18.0
"""Degrees, either way."""

# RGB to luma and two colour differences (YIQ), in which hue is an angle.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])

Planes = npt.NDArray[np.float32]


def augment(image: Planes, masks: Planes, rng: np.random.Generator) -> tuple[Planes, Planes]:
    """A copy of an image (3, S, S) and masks (N, S, S), values in [0, 1]."""
    matrix, offset = _affine(image.shape[-1], rng)

    def moved(plane: npt.NDArray) -> npt.NDArray:
        return ndimage.affine_transform(plane, matrix, offset, order=1)

    shown = np.stack([moved(plane) for plane in image])
    there = np.stack([moved(plane) for plane in masks])
    return _recoloured(shown, rng), np.clip(there, 0, 1).astype(np.float32)


def _affine(size: int, rng: np.random.Generator) -> tuple[npt.NDArray, npt.NDArray]:
    """Where pixels of the copy come from, about the image's middle."""
    angle, shear = np.deg2rad(rng.uniform(-1, 1, 2) * (ROTATION, SHEAR))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, np.tan(shear)], [0, 1]]) * np.exp(rng.uniform(-SCALE, SCALE))
    centre = np.full(2, (size - 1) / 2)
    return matrix, centre - matrix @ (centre + rng.uniform(-SHIFT, SHIFT, 2) * size)


def _recoloured(image: npt.NDArray, rng: np.random.Generator) -> Planes:
    """Brightness, contrast, saturation and hue. Saturation and hue leave grey images as they are,
    and padding stays black."""
    brightness, contrast, saturation = 1 + rng.uniform(-COLOUR, COLOUR, 3)
    hue = np.deg2rad(rng.uniform(-HUE, HUE))
    inside = image.max(axis=0) > 0
    shown = image * brightness
    mean = shown[:, inside].mean() if inside.any() else 0.0
    luma, *colour = np.einsum("ab,bij->aij", _YIQ, (shown - mean) * contrast + mean)
    turn = np.array([[np.cos(hue), -np.sin(hue)], [np.sin(hue), np.cos(hue)]]) * saturation
    other = np.einsum("ab,bij->aij", turn, np.stack(colour))
    back = np.einsum("ab,bij->aij", np.linalg.inv(_YIQ), np.concatenate([luma[None], other]))
    return np.where(inside, np.clip(back, 0, 1), 0).astype(np.float32)
