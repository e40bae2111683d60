"""A learned task as the segmenter of a cohort."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from OFLSAM2Core.data.results import ProgressCallback, SliceResult
from OFLSAM2Core.data.structure_status import Sizes
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import TaskError

if TYPE_CHECKING:
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.session import FewShotSession


@dataclass(frozen=True)
class TaskSegmenter:
    """Implements `SegmenterSource`: what a process needs to segment with a learned task.

    task, sha256: the file, at the same path for every worker, and what it must contain.
    preset, options: of segmenting, changed by name. The rest as of `FewShotSession`.
    """

    task: Path
    sha256: str
    device: str = "auto"
    weights: Path | None = None
    precision: str = "auto"
    preset: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def load(self) -> LoadedTask:
        """Backbone and task in memory.

        Raises TaskError where the file is not there, another one, or does not fit the backbone's
        weights; WeightsError; ResourceError where there is no such device.
        """
        from OFLSAM2Core.learned_task import LearnedTask
        from OFLSAM2Core.session import FewShotSession

        if not self.task.is_file():
            raise TaskError(
                f"The learned task '{self.task}' is not there.",
                "Keep it on a disk that all workers share, at the same path.",
            )
        if sha256_of(self.task) != self.sha256:
            raise TaskError(
                f"The learned task '{self.task}' is another one than when the run began.",
                "Put the right file back, or choose another --out for the new task.",
            )
        task = LearnedTask.load(self.task)
        session = FewShotSession(
            task.backbone,
            self.device,
            method=task.method,
            weights=self.weights,
            precision=self.precision,
            preset=self.preset,
            options=dict(self.options),
            seed=self.seed,
        )
        if task.backbone:
            task.check_fits(task.method, session.backbone.name, session.backbone.identity)
        return LoadedTask(session, task)


class LoadedTask:
    """Implements `Segmenter`."""

    def __init__(self, session: FewShotSession, task: LearnedTask) -> None:
        self.session = session
        self.task = task
        self.structures: tuple[Structure, ...] = task.structures
        self.sizes: Sizes = task.sizes

    def segment(self, volume: Volume, report: ProgressCallback) -> Iterator[SliceResult]:
        """As `FewShotSession.segment`."""
        return self.session.segment(volume, self.task, report)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
