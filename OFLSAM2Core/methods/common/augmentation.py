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
"""Largest shift, as share of the image's side, either way."""

IN_PLACE = (-1.15, 0.7)
"""Logarithm of how much a structure shrinks or grows where it is, while what lies around makes
room, as ventricles contract and their walls thicken. Just short of folding the image."""
UNCHANGED = 0.4
"""How often a structure keeps its size."""


def augment(
    image: npt.NDArray[np.float32],
    planes: npt.NDArray[np.float32],
    rng: np.random.Generator,
    structures: int | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A copy of image (3, S, S) and planes (M, S, S), values in [0, 1].

    Both are moved by a random affine map, and structures shrink or grow in their places, each by
    itself; the image gets a random grey curve, shading, blur and noise. structures: how many of
    the planes are their masks, all by default; the others go along.
    """
    size = image.shape[-1]
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    scale = np.exp(rng.uniform(-SCALE, SCALE))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = np.full(2, (size - 1) / 2)
    offset = centre - turn @ (centre + rng.uniform(-SHIFT, SHIFT, 2) * size)

    source = np.einsum("ab,bij->aij", turn, np.indices((size, size))) + offset[:, None, None]
    source = _resized_in_place(source, planes[:structures], rng)

    def moved(plane: npt.NDArray) -> npt.NDArray:
        return ndimage.map_coordinates(plane, source, order=1)

    grey = np.stack([moved(plane) for plane in _distinct(image)])
    grey = _other_scanner(np.clip(grey, 0, 1), rng)
    return (
        np.ascontiguousarray(np.broadcast_to(grey, image.shape), dtype=np.float32),
        np.clip(np.stack([moved(plane) for plane in planes]), 0, 1).astype(np.float32),
    )


def _resized_in_place(
    source: npt.NDArray[np.float64], masks: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Coordinates (2, S, S) of where pixels come from, changed around structures.

    Around a structure's centre pixels come from farther off or nearer by a factor, which falls off
    to one within the structure's radius. A structure alone has none to change its proportion to.
    """
    if len(masks) == 1:
        return source
    for mask in masks:
        inside = mask > 0.5
        if not inside.any() or rng.random() < UNCHANGED:
            continue
        centre = np.argwhere(inside).mean(axis=0)[:, None, None]
        reach = np.sqrt(inside.sum() / np.pi) * rng.uniform(0.4, 0.8)
        factor = np.exp(-rng.uniform(*IN_PLACE))
        away = source - centre
        near = np.exp(-np.square(away).sum(axis=0) / (2 * reach**2))
        source = centre + away * (1 + (factor - 1) * near)
    return source


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
