"""The same volume stored in other ways, for tests of what must not depend on it."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

from OFLSAM2Core.data.volume import Volume

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
"""All 48: the order of the axes, and whether each runs backwards."""


def stored(volume: Volume, order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same voxels at the same places, stored with axes permuted and turned round."""
    new, affine = stored_array(volume.array, order, signs), volume.affine
    columns, origin = affine[:3, list(order)].copy(), affine[:3, 3].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            origin += columns[:, axis] * (new.shape[2 - axis] - 1)
            columns[:, axis] *= -1
    turned = np.eye(4)
    turned[:3, :3], turned[:3, 3] = columns, origin
    return Volume(new, turned, volume.name)


def stored_array(array: np.ndarray, order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    new = array.transpose([2 - order[2 - axis] for axis in range(3)])
    backwards = [2 - axis for axis, sign in enumerate(signs) if sign < 0]
    return np.ascontiguousarray(np.flip(new, backwards))
