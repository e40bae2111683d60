"""How many workers fit into the memory, from the volumes' headers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import psutil

from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.io.volume_size import VolumeSize, volume_size
from OFLSAM2Core.runtime.memory_estimate import BASE_BYTES, bytes_to_segment

_USABLE = 0.9
"""Share of the free memory that cases may take; the rest is left to the system."""


def bytes_for(size: VolumeSize, structures: int, further: Iterable[VolumeSize] = ()) -> int:
    """What a process that segments such a volume is expected to hold in all. further: of volumes
    that are co-registered with it, each held as stored and on the first one's grid."""
    first = bytes_to_segment(size.shape[-3:], size.itemsize, structures, size.slices)
    grid = math.prod(size.shape[-3:])
    return first + sum(other.bytes + 4 * (other.voxels + grid) for other in further)


def volume_sizes(case: CaseInput) -> list[VolumeSize | None]:
    """The size of each of a case's volumes; None where the header does not give it."""
    return [volume_size(source) for source in case.sources]


def most_bytes(cases: Iterable[CaseInput], structures: int) -> int:
    """For the case that takes the most; of a process without a volume where no header can be read
    (segmenting will say why)."""
    with ThreadPoolExecutor(8) as threads:
        found = [(first, more) for first, *more in threads.map(volume_sizes, cases)]
    return max(
        (bytes_for(first, structures, filter(None, more)) for first, more in found if first),
        default=BASE_BYTES,
    )


def workers_that_fit(cases: list[CaseInput], structures: int, cores: int, gpus: int = 0) -> int:
    """One a GPU; without GPUs as many as cores and free memory allow, at least one.

    A worker is given two cores where there are so many: the encoder runs on both, and half as many
    processes take half of the memory.
    """
    if gpus:
        return min(gpus, max(1, len(cases)))
    free = psutil.virtual_memory().available * _USABLE
    by_memory = int(free // most_bytes(cases, structures))
    return max(1, min(math.ceil(cores / 2), by_memory, len(cases)))


def usable_cores() -> int:
    """Cores that this process may use: the system or a scheduler may give it fewer than there
    are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
