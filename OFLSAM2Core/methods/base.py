"""What a method is: it learns from encoded support slices, and segments slice by slice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.options import MethodOptions
from OFLSAM2Core.preparation import Preparation, PreparedVolume
from OFLSAM2Core.results import ProgressCallback
from OFLSAM2Core.slicing import Slicing
from OFLSAM2Core.structures import Structure
from OFLSAM2Core.timings import Timings


@dataclass(frozen=True, eq=False)
class SupportSlices:
    """A support case as a method gets it: prepared, cut, with labels as canonical slices.

    labels: (S, H, W), values are `Structure.label`.
    whole: the same with whole slices, where `prepared` shows a square of them.
    """

    name: str
    prepared: PreparedVolume
    slicing: Slicing
    labels: npt.NDArray
    whole: PreparedVolume | None = None


@dataclass(frozen=True, eq=False)
class CanonicalResult:
    """A segmented canonical slice: labels and confidence uint8 (H, W), S_cf by structure name."""

    index: int
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    scores: dict[str, float]
    revision: int = 0


class Method(ABC):
    """A few-shot segmentation system over a frozen backbone."""

    name: str
    description: str

    @abstractmethod
    def learn(
        self,
        backbone: Backbone,
        support: Sequence[SupportSlices],
        structures: tuple[Structure, ...],
        preparation: Preparation,
        options: MethodOptions,
        seed: int,
        on_progress: ProgressCallback,
    ) -> LearnedTask: ...

    @abstractmethod
    def locate(
        self,
        backbone: Backbone,
        whole: PreparedVolume,
        slicing: Slicing,
        task: LearnedTask,
        on_progress: ProgressCallback,
        timings: Timings,
    ) -> tuple[float, float]:
        """Row and column, in slice pixels, of the middle of all structures together, in a volume
        of which whole slices are shown. Asked only where the task shows a square of them."""

    @abstractmethod
    def segment(
        self,
        backbone: Backbone,
        prepared: PreparedVolume,
        slicing: Slicing,
        task: LearnedTask,
        options: MethodOptions,
        on_progress: ProgressCallback,
        timings: Timings,
    ) -> Iterator[CanonicalResult]: ...
