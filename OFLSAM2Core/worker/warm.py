"""What the worker keeps between requests: backbones on their devices, and learned tasks."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy.typing as npt

from OFLSAM2Core.data.results import ProgressCallback
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.runtime.temporary import temporary_folder

if TYPE_CHECKING:
    from OFLSAM2Core.backbones.base import Backbone
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.open_volume import OpenVolume

BACKBONES_KEPT = 2  # one is 0.04 to 0.9 GB of weights on its device
TASKS_KEPT = 4  # a task with its memory is some tens of MB

T = TypeVar("T")


class LeastRecentlyUsed(Generic[T]):
    """At most `size` things by key; the one not used for longest goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._things: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._things:
            # The old one goes before the new one comes: both may not fit.
            while len(self._things) >= self._size:
                self._things.popitem(last=False)
            self._things[key] = make()
        self._things.move_to_end(key)
        return self._things[key]

    def clear(self) -> None:
        self._things.clear()


_backbones: LeastRecentlyUsed[Backbone] = LeastRecentlyUsed(BACKBONES_KEPT)
_tasks: LeastRecentlyUsed[LearnedTask] = LeastRecentlyUsed(TASKS_KEPT)
_opened: dict[int | str, OpenVolume] = {}


def warm_backbone(
    name: str, device: str, weights: str | None, on_progress: ProgressCallback
) -> Backbone:
    """The backbone on its device, loaded (and downloaded, with `on_progress`) on first use.

    Raises WeightsError, ResourceError or InputError.
    """
    from OFLSAM2Core.backbones import load_backbone

    chosen = _device(device)

    def load() -> Backbone:
        return load_backbone(name, chosen, Path(weights) if weights else None, on_progress)

    return _backbones.get((name, chosen, weights), load)


def remember_task(path: Path, task: LearnedTask) -> None:
    """A task that has just been saved at `path`."""
    _tasks.get(_file_key(path), lambda: task)


def task_at(path: Path) -> LearnedTask:
    """The task in a file, read again only where the file has changed. Raises TaskError."""
    from OFLSAM2Core.learned_task import LearnedTask

    return _tasks.get(_file_key(path), lambda: LearnedTask.load(path))


def task_of(content: npt.NDArray) -> LearnedTask:
    """The task in a file's bytes. Raises TaskError."""
    from OFLSAM2Core.learned_task import LearnedTask

    def load() -> LearnedTask:
        with temporary_folder() as folder:
            path = folder / "sent.oflsam2"
            path.write_bytes(content.tobytes())
            return LearnedTask.load(path)

    return _tasks.get(hashlib.sha256(content.tobytes()).hexdigest(), load)


def keep_opened(number: int | str, opened: OpenVolume) -> None:
    """Keep what was calculated for a volume, by the number of the request that it was segmented
    with; one volume is kept at a time."""
    forget_opened()
    _opened[number] = opened


def forget_opened() -> None:
    """Let go of the volume that is kept, before another one comes: both may not fit."""
    _opened.clear()


def kept_opened(number: object) -> OpenVolume | None:
    """The volume of that request, where it is still kept."""
    return _opened.get(number) if isinstance(number, int | str) else None


def release_memory() -> None:
    """Forget everything, after memory ran out."""
    _opened.clear()
    _backbones.clear()
    _tasks.clear()
    _device.cache_clear()
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


@cache
def _device(name: str) -> str:
    """What a device's name stands for; "auto" stays the same GPU once it is in use."""
    from OFLSAM2Core.runtime.device import choose_device

    return str(choose_device(name))


def _file_key(path: Path) -> Hashable:
    try:
        stat = path.stat()
    except OSError as error:
        raise TaskError(
            f"The learned task '{path}' cannot be read: {error.strerror}.",
            "Give the path of an .oflsam2 file on the worker's machine.",
        ) from error
    return (os.path.realpath(path), stat.st_size, stat.st_mtime_ns)
