"""What a method is: it learns from encoded support slices, and segments slice by slice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.results import ProgressCallback
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.ofl_sam2_atlas.options import MethodOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.views import ExtraViews, SlicePrediction
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume, Preprocessing
from OFLSAM2Core.preprocessing.support_stack import SupportStack
from OFLSAM2Core.runtime.timings import Timings


class Method(ABC):
    """A few-shot segmentation system over a frozen backbone."""

    name: str
    description: str

    @abstractmethod
    def learn(
        self,
        backbone: Backbone,
        support: Sequence[SupportStack],
        structures: tuple[Structure, ...],
        preparation: Preprocessing,
        options: MethodOptions,
        seed: int,
        on_progress: ProgressCallback,
    ) -> LearnedTask: ...

    @abstractmethod
    def segment(
        self,
        backbone: Backbone,
        prepared: PreprocessedVolume,
        other_looks: ExtraViews,
        slicing: SliceGeometry,
        task: LearnedTask,
        options: MethodOptions,
        on_progress: ProgressCallback,
        timings: Timings,
    ) -> Iterator[SlicePrediction]: ...
