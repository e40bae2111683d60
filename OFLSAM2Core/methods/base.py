"""What a method is: it learns from encoded support slices, and segments slice by slice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
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
    square: the same of a square around the structures, where one is worth showing.
    across: the same case, cut along the other axes, where that is worth it.
    """

    name: str
    prepared: PreparedVolume
    slicing: Slicing
    labels: npt.NDArray
    square: PreparedVolume | None = None
    across: tuple[SupportSlices, ...] = ()


@dataclass(frozen=True, eq=False)
class CanonicalResult:
    """A segmented canonical slice: labels and confidence uint8 (H, W), S_cf by structure name."""

    index: int
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    scores: dict[str, float]
    revision: int = 0


@dataclass(frozen=True, eq=False)
class OtherLooks:
    """Other ways in which a task shows a volume, besides whole slices, where it does.

    closer: from the middle of the structures, row and column in slice pixels, to the square around
        it. across: cut along other axes.
    """

    closer: Callable[[tuple[float, float]], PreparedVolume] | None = None
    across: tuple[tuple[PreparedVolume, Slicing], ...] = ()


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
    def segment(
        self,
        backbone: Backbone,
        prepared: PreparedVolume,
        other_looks: OtherLooks,
        slicing: Slicing,
        task: LearnedTask,
        options: MethodOptions,
        on_progress: ProgressCallback,
        timings: Timings,
    ) -> Iterator[CanonicalResult]: ...
