"""Counts in messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A count with its noun, which is English and takes an "s" in the plural.

    >>> counted(1, "case"), counted(0, "slice"), counted(2, "corrected voxel")
    ('1 case', '0 slices', '2 corrected voxels')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
