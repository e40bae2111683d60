"""The seams between a method and everything around it.

A method learns from support cases, and opens volumes to segment. What it needs for that (how a
volume is cut, preprocessed and cropped, what is trained) is its own affair; what it needs from
outside comes in one `Context`. What it learned is a `MethodState`, opaque to everybody else.

Another package adds a method by an entry point of the group `oflsam2.methods` whose name is the
method's and whose value is its class. The module that holds the class must import without PyTorch:
a method is asked to describe itself where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import ProgressCallback, SliceResult
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.options import Options
from OFLSAM2Core.runtime.timings import Timings

if TYPE_CHECKING:
    import torch

    from OFLSAM2Core.backbones.base import Backbone
    from OFLSAM2Core.learned_task import LearnedTask


def refuse_corrections(name: str) -> NoReturn:
    """Raises InputError: the method of this name does not learn from corrections."""
    raise InputError(
        f"The method '{name}' does not learn from corrections.",
        "Correct the result by hand, or add the corrected volume to the support.",
    )


@dataclass
class Context:
    """What a method works with, in one piece.

    backbone: loaded, on its device, in the precision to calculate in; None for a method that needs
    none. device: where to calculate. seed: all that is random follows from it. report: called with
    a Progress often; it may raise `Cancelled`, which is to be let through. timings: seconds by
    stage, of this job alone. unlabelled: volumes without labels to learn from, for a method that
    uses them (`uses_unlabelled`).
    """

    backbone: Backbone | None
    device: torch.device
    seed: int
    report: ProgressCallback
    timings: Timings = field(default_factory=Timings)
    unlabelled: Sequence[Volume] = ()

    @property
    def needed_backbone(self) -> Backbone:
        """The backbone, of a method that cannot do without."""
        assert self.backbone is not None, "the session gives every method the backbone it needs"
        return self.backbone

    def rng(self) -> np.random.Generator:
        """A new generator of the seed: the same numbers at every call."""
        return np.random.default_rng(self.seed)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """PyTorch's own generator follows the seed inside, and is the caller's again after."""
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield


class Run(Protocol):
    """One volume being segmented."""

    def slices(self) -> Iterator[SliceResult]:
        """Every slice as soon as it is ready, on the volume's own grid; closing the iterator stops
        the work. A slice may come again, with a higher revision."""

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        """Learn from what a person corrected, which was checked, and give the slices that change by
        it; all of them where `slices` was not called before. Raises InputError, at the call, where
        the method cannot."""

    def state(self) -> MethodState:
        """What was learned, the corrections included."""


class Method(Protocol):
    """A few-shot segmentation method.

    description: one line. needs_backbone: whether it works on features of a frozen backbone.
    sequences: whether it segments sequences of frames as well as volumes.
    corrections: whether a `Run` of it learns from corrections.
    LearnOptions, SegmentOptions: a name that stands in both is one option for both.
    presets: values of options by name, for "fast", "balanced" and "accurate".
    """

    name: str
    description: str
    needs_backbone: bool
    sequences: bool
    corrections: bool
    LearnOptions: type[Options]
    SegmentOptions: type[Options]
    presets: Mapping[str, Mapping[str, Any]]

    def learn(self, ctx: Context, support: Sequence[SupportCase], options: Any) -> MethodState:
        """Learn from support cases that were checked and harmonized: all have the same
        `structures`, and the same value for the same structure."""

    def open(self, ctx: Context, volume: Volume, task: LearnedTask, options: Any) -> Run:
        """Make ready to segment a volume that was checked. Raises TaskError or InputError where the
        task or the volume will not do; nothing heavy is calculated yet."""


def uses_further_volumes(method: Method) -> bool:
    """Whether the backbone sees all co-registered volumes of a case, by a method's
    `further_volumes`; not where it does not say."""
    return bool(getattr(method, "further_volumes", False))


def uses_unlabelled(method: Method) -> bool:
    """Whether it learns from volumes without labels, too, by a method's `unlabelled`; not where it
    does not say."""
    return bool(getattr(method, "unlabelled", False))


def refuse_unlabelled(method: Method) -> None:
    """Raises InputError where a method does not learn from volumes without labels."""
    if not uses_unlabelled(method):
        raise InputError(
            f"The method '{method.name}' does not learn from volumes without labels.",
            "Leave them out, or use --method rrl-medsam.",
        )


class ExtensibleMethod(Method, Protocol):
    """A method that can learn one more case without learning from nothing."""

    def add_case(
        self, ctx: Context, task: LearnedTask, case: SupportCase, options: Any
    ) -> MethodState:
        """The task's state with one more support case, whose structures are the task's. options:
        those of learning that the task was learned with."""


def describe(method: Method) -> dict[str, Any]:
    """What a user interface needs to offer a method, as plain values.

    Each of "options" has the fields of `OptionInfo` and "when": "learn", "segment" or "both".
    """
    learn = {info.name: info for info in method.LearnOptions.describe()}
    segment = {info.name: info for info in method.SegmentOptions.describe()}
    options = []
    for name, info in {**learn, **segment}.items():
        when = "both" if name in learn and name in segment else "learn"
        options.append({**info.to_json(), "when": "segment" if name not in learn else when})
    return {
        "name": method.name,
        "description": method.description,
        "needs_backbone": method.needs_backbone,
        "sequences": method.sequences,
        "corrections": method.corrections,
        "further_volumes": uses_further_volumes(method),
        "unlabelled": uses_unlabelled(method),
        "presets": {name: dict(values) for name, values in method.presets.items()},
        "options": options,
    }
