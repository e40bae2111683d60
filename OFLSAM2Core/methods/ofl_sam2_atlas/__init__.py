"""OFL-SAM2: a frozen backbone, memory, a mapping network updated online, adaptive fusion.

Lan et al., arXiv 2512.24861. What the paper leaves open, and what was chosen, is in
docs/decisions/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.results import ProgressCallback
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import Method
from OFLSAM2Core.methods.ofl_sam2_atlas.learning import learn
from OFLSAM2Core.methods.ofl_sam2_atlas.options import MethodOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.propagation import Propagation
from OFLSAM2Core.methods.ofl_sam2_atlas.views import ExtraViews, SlicePrediction
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume, Preprocessing
from OFLSAM2Core.preprocessing.support_stack import SupportStack
from OFLSAM2Core.runtime.timings import Timings


class OflSam2(Method):
    name = "ofl-sam2"

    def learn(
        self,
        backbone: Backbone,
        support: Sequence[SupportStack],
        structures: tuple[Structure, ...],
        preparation: Preprocessing,
        options: MethodOptions,
        seed: int,
        on_progress: ProgressCallback,
    ) -> LearnedTask:
        return learn(backbone, support, structures, preparation, options, seed, on_progress)

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
    ) -> Iterator[SlicePrediction]:
        propagation = Propagation(backbone, prepared, other_looks, slicing, task, options, timings)
        return propagation.run(on_progress)
