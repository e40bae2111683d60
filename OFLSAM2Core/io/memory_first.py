"""Enough memory for volumes, found out from their headers before anything else of them is read.

Where a header does not give a size (a folder of many series, a damaged file), nothing is refused:
reading decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from OFLSAM2Core.io.volume_size import VolumeSize, volume_size
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.memory_check import require_memory
from OFLSAM2Core.runtime.memory_estimate import (
    bytes_to_learn,
    bytes_to_segment,
    not_yet_held,
)


def require_memory_to_segment(image: str | Path, structures: int = 1) -> VolumeSize | None:
    """Check that there is memory to segment a volume. Returns its size, or None where the header
    does not give it. Raises ResourceError."""
    size = volume_size(image)
    if size is not None:
        needed = not_yet_held(
            bytes_to_segment(size.shape[-3:], size.itemsize, structures, size.slices)
        )
        require_memory(
            max(needed, size.read_bytes), f"'{image}'", "Close other programs, or crop the volume."
        )
    return size


def require_memory_to_learn(images: Iterable[str | Path]) -> None:
    """Check that there is memory to learn from some volumes, which are all held at once. Raises
    ResourceError."""
    images = list(images)
    sizes = [size for image in images if (size := volume_size(image)) is not None]
    require_memory(
        not_yet_held(bytes_to_learn((size.voxels, size.itemsize) for size in sizes)),
        f"Learning from {counted(len(images), 'volume')}",
        "Close other programs, give fewer support cases, or crop them.",
    )
