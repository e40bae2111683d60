"""OFL-SAM2: a frozen backbone, memory, a mapping network updated online, adaptive fusion.

Lan et al., arXiv 2512.24861. What the paper leaves open, and what was chosen, is in
docs/decisions/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import CanonicalResult, Method, OtherLooks, SupportSlices
from OFLSAM2Core.methods.ofl_sam2.learning import learn
from OFLSAM2Core.methods.ofl_sam2.propagation import Propagation
from OFLSAM2Core.methods.options import MethodOptions
from OFLSAM2Core.preparation import Preparation, PreparedVolume
from OFLSAM2Core.results import ProgressCallback
from OFLSAM2Core.slicing import Slicing
from OFLSAM2Core.structures import Structure
from OFLSAM2Core.timings import Timings


class OflSam2(Method):
    name = "ofl-sam2"

    def learn(
        self,
        backbone: Backbone,
        support: Sequence[SupportSlices],
        structures: tuple[Structure, ...],
        preparation: Preparation,
        options: MethodOptions,
        seed: int,
        on_progress: ProgressCallback,
    ) -> LearnedTask:
        return learn(backbone, support, structures, preparation, options, seed, on_progress)

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
    ) -> Iterator[CanonicalResult]:
        propagation = Propagation(backbone, prepared, other_looks, slicing, task, options, timings)
        return propagation.run(on_progress)
