"""Whether a structure was found, in words that a program can rely on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from OFLSAM2Core.data.volume import SupportCase

FOUND = "found"
EMPTY = "empty"
DOUBTFUL = "doubtful"

# Times the smallest and the largest one in the support. Structures differ between patients, but
# seldom by this much.
_TINY, _HUGE = 0.1, 10.0

Sizes = dict[str, tuple[float, float]]
"""By a structure's name, the least and the greatest volume of it in the support, ml."""


def support_sizes(cases: Sequence[SupportCase]) -> Sizes:
    """Sizes of structures in harmonised cases; {} for sequences, which have no millimetres."""
    if any(case.volume.is_sequence for case in cases):
        return {}
    found: dict[str, list[float]] = {}
    for case in cases:
        voxel = abs(float(np.linalg.det(case.volume.affine[:3, :3]))) / 1000
        for structure in case.structures:
            size = np.count_nonzero(case.labels == structure.label) * voxel
            if size > 0:
                found.setdefault(structure.name, []).append(size)
    return {name: (min(sizes), max(sizes)) for name, sizes in found.items()}


def structure_status(voxels: int, milliliters: float, support: tuple[float, float] | None) -> str:
    """EMPTY where there is no voxel, DOUBTFUL where there is less than a tenth of the smallest one
    in the support or ten times the largest one, else FOUND."""
    if voxels == 0:
        return EMPTY
    if support is None:
        return FOUND
    if milliliters < _TINY * support[0] or milliliters > _HUGE * support[1]:
        return DOUBTFUL
    return FOUND


def describe_status(
    status: str, support: tuple[float, float] | None, milliliters: float = 0.0
) -> str:
    """The status as a sentence: nothing was found, or what is doubtful; "" where it was found."""
    if status == EMPTY:
        return "empty: nothing was found"
    if status == DOUBTFUL and support is not None:
        found = "almost nothing" if milliliters < support[0] else f"{milliliters:.3g} ml"
        return (
            f"doubtful: {found} was found, {support[0]:.3g} to {support[1]:.3g} ml in the support"
        )
    return ""
