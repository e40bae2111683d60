"""What a run needs to know, and what it leaves behind; plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.backbones import DEFAULT_BACKBONE
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structure_status import Sizes
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.methods import DEFAULT, get_method


@dataclass(frozen=True, eq=False)
class Learned:
    """A learned task: the bytes of its file, and the description of it that the worker sent.

    sizes: of the support, by a structure's name the least and the greatest, ml. volume_count: how
    many co-registered volumes a case has.
    """

    content: npt.NDArray[np.uint8]
    structures: tuple[Structure, ...]
    backbone: str = ""
    summary: Any = ""
    method: str = ""
    sizes: Sizes = field(default_factory=dict)
    volume_count: int = 1


@dataclass(frozen=True)
class RunSettings:
    """The model and how it is used. options: values of the method's options by name, "preset"
    among them: only what the user changed."""

    backbone: str = DEFAULT_BACKBONE
    device: str = "auto"
    method: str = DEFAULT
    options: dict[str, Any] = field(default_factory=dict)
    allow_missing: bool = False
    weights: str = ""

    def for_learning(self) -> dict[str, Any]:
        """Fields of a "learn" request."""
        chosen = {"backbone": self.backbone, "method": self.method}
        return {**chosen, "allow_missing": self.allow_missing, **self._changed(self.options)}

    def for_segmenting(self, method: str = "") -> dict[str, Any]:
        """Fields of a "segment" request with a task of a method; "" where it is not known. What is
        settled in learning is not sent, nor what was chosen for another method."""
        if method and method != self.method:
            return self.for_worker()
        learned_by = get_method(self.method)
        names = {"preset", *learned_by.SegmentOptions.names()}
        return self._changed({n: v for n, v in self.options.items() if n in names})

    def for_worker(self) -> dict[str, Any]:
        """Fields of a request that only says where to calculate."""
        fields = {"device": self.device}
        return {**fields, "weights": self.weights} if self.weights else fields

    def _changed(self, options: dict[str, Any]) -> dict[str, Any]:
        values = dict(options)
        preset = values.pop("preset", None)
        fields: dict[str, Any] = {"device": self.device}
        if preset is not None:
            fields["preset"] = preset
        if values:
            fields["options"] = values
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
        """Show what was added in the views."""

    def corrections(self) -> Steps[Corrections]:
        """What was corrected since the run; what is added from then on can be taken back."""

    def end(self, frame: int, image: str = "") -> Steps[None]:
        """All slices of the frame have come. image: the `image_identity` of the volume that they
        are of; "" where it is not known."""

    def finish(self, complete: bool) -> Steps[None]:
        """The run is over; what has come is kept."""
