"""How many workers fit into the memory, from the volumes' headers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import psutil

from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.dicom_cases import series_voxels
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.io.dicom_folder import split_series
from OFLSAM2Core.io.image_files import read_header

BASE_BYTES = 1_500_000_000
"""A process with PyTorch, the default backbone and a task."""

BYTES_PER_VOXEL = 16
"""Of the volume, beside that: image, labels, probabilities."""

_USABLE = 0.9
"""Of the memory that is free: the rest is the system's."""


def bytes_for(voxels: int) -> int:
    """What segmenting a volume of so many voxels is expected to take."""
    return BASE_BYTES + BYTES_PER_VOXEL * voxels


def voxels_of(case: CaseInput) -> int | None:
    """From the headers alone; None where they cannot be read (segmenting will say why)."""
    path, series = split_series(case.source)
    try:
        if path.is_dir():
            return series_voxels(path, series) or None
        return math.prod(read_header(path).shape[:3])
    except (OFLSAM2Error, OSError):
        return None


def largest(cases: Iterable[CaseInput]) -> int:
    """Voxels of the largest case whose header can be read; 0 where none can."""
    with ThreadPoolExecutor(8) as threads:
        return max((voxels or 0 for voxels in threads.map(voxels_of, cases)), default=0)


def workers_that_fit(cases: list[CaseInput], cores: int, gpus: int = 0) -> int:
    """One a GPU; without GPUs as many as cores and free memory allow, at least one.

    A worker is given two cores where there are so many: the encoder runs on both, and half as many
    processes take half of the memory.
    """
    if gpus:
        return min(gpus, max(1, len(cases)))
    free = psutil.virtual_memory().available * _USABLE
    by_memory = int(free // bytes_for(largest(cases)))
    return max(1, min(math.ceil(cores / 2), by_memory, len(cases)))


def usable_cores() -> int:
    """Of this process, where the system or a scheduler gave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
