"""What a run can be doing, as the panel and the Python console see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class State(Enum):
    IDLE = "idle"
    CHECKING = "checking"
    LEARNING = "learning"
    SEGMENTING = "segmenting"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_running(self) -> bool:
        return self in (State.CHECKING, State.LEARNING, State.SEGMENTING)


@dataclass(frozen=True)
class Status:
    """One moment of a run.

    stage: what is being done, in words.
    done, total: of the stage; total 0 where it is not known.
    slices_done, slices_total: of all volumes or frames of the run.
    seconds_left: of the stage, None where it is not known yet.
    message, hint, log: what happened and what to do next, once the run is over.
    notes: what the user should know of the inputs (a segmentation was resampled, say), and what
    the worker warned of.
    needs: what the run failed for want of: "packages" (of the worker's Python) or "weights".
    structures: of a volume that was segmented to its end, by a structure's name: "found", "empty"
        or "doubtful" (`data/structure_status.py`); what is not "found" is in the notes, too.
    stopping: whether the user asked to cancel and the worker has not yet stopped.
    """

    state: State = State.IDLE
    stage: str = ""
    done: int = 0
    total: int = 0
    slices_done: int = 0
    slices_total: int = 0
    seconds_left: float | None = None
    message: str = ""
    hint: str = ""
    log: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    needs: str = ""
    structures: dict[str, str] = field(default_factory=dict)
    stopping: bool = False

    @property
    def is_running(self) -> bool:
        return self.state.is_running

    @property
    def text(self) -> str:
        """Message and hint, as one paragraph each."""
        return "\n".join(part for part in (self.message, self.hint) if part)
