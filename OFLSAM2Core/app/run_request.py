"""What a run needs to know, and what it leaves behind; plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume


@dataclass(frozen=True, eq=False)
class Learned:
    """A learned task: the bytes of its file, and what the worker said is in it."""

    content: npt.NDArray[np.uint8]
    structures: tuple[Structure, ...]
    backbone: str = ""
    summary: Any = ""


@dataclass(frozen=True)
class RunSettings:
    """The model and how it is used. options: fields of the core's MethodOptions."""

    backbone: str = "litemedsam"
    device: str = "auto"
    method: str = "ofl-sam2"
    options: dict[str, Any] = field(default_factory=dict)
    allow_missing: bool = False
    weights: str = ""

    def for_learning(self) -> dict[str, Any]:
        """Fields of a "learn" request."""
        chosen = {"backbone": self.backbone, "method": self.method}
        return {**chosen, "allow_missing": self.allow_missing, **self.for_segmenting()}

    def for_segmenting(self) -> dict[str, Any]:
        """Fields of a "segment" request."""
        fields: dict[str, Any] = {"device": self.device}
        if self.options:
            fields["options"] = self.options
        if self.weights:
            fields["weights"] = self.weights
        return fields


class Scene(Protocol):
    """The scene side of a run: `scene_run.SceneRun`, `sequences.SequenceRun`."""

    frame_count: int
    notes: list[str]

    @property
    def is_intact(self) -> bool:
        """Whether the nodes the run works on are still in the scene."""

    def support_cases(self) -> Steps[Sequence[SupportCase]]:
        """Read the support cases, in steps."""

    def volume(self, frame: int) -> Volume: ...

    def begin(self, frame: int, structures: Sequence[Structure]) -> Steps[None]:
        """Make the output ready for the slices of a frame."""

    def add(self, result: SliceResult) -> None: ...

    def flush(self) -> None:
        """Have what was added drawn."""

    def end(self, frame: int) -> Steps[None]:
        """All slices of the frame have come."""

    def finish(self, complete: bool) -> Steps[None]:
        """The run is over; what has come is kept."""
