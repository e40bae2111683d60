"""What happens when: the states of a run, without a scene and without Qt.

    Idle -> Checking -> Learning -> Segmenting -> Done
                |           |           |
                +-----------+-----------+-> Cancelled, Failed

A timer calls `poll`; everything else follows from that and from `start` and `cancel`. One tick
does at most about 20 ms of work, so that the panel never stands still.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from OFLSAM2Core.app.found import FoundStructures
from OFLSAM2Core.app.link import Link
from OFLSAM2Core.app.run_request import Learned, RunSettings, Scene
from OFLSAM2Core.app.states import State, Status
from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.methods import get_method
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.worker import payloads
from OFLSAM2Core.worker.client import Event, WorkerClient

WORK_A_TICK_S = 0.015
REDRAW_EVERY_S = 0.1  # slices can come at 100 Hz; a redraw of three views takes some 50 ms

STAGES = {
    "read": "Preparing images",
    "encode": "Looking at the images",
    "learn": "Learning from the support cases",
    "segment": "Segmenting",
    "finish": "Finishing",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Kept:
    """What the worker keeps of the last run, to predict from when slices were corrected: of which
    scene's volume, by which learned task, in which process of the worker, by which request."""

    scene: Scene
    learned: Learned
    pid: int | None
    request: int

    def is_of(self, scene: Scene, learned: Learned, pid: int | None) -> bool:
        return self.scene is scene and self.learned is learned and self.pid == pid


class Presenter:
    """One run at a time.

    on_status: called with each new Status.
    on_learned: called when a task has been learned.
    """

    def __init__(
        self,
        link: Link,
        on_status: Callable[[Status], None] = lambda status: None,
        on_learned: Callable[[Learned], None] = lambda learned: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.link = link
        self.on_status = on_status
        self.on_learned = on_learned
        self._clock = clock
        self._status = Status()
        self._closing: Steps[None] | None = None  # of a run that is over: surfaces, say
        self._scene: Scene | None = None
        self._settings: RunSettings | None = None
        self._learned: Learned | None = None
        self._support: Any = []
        self._steps: Steps[None] | None = None
        self._then: Callable[[], None] | None = None
        self._request_id: int | None = None
        self._only_learn = False
        self._is_ready = False
        self._frame = 0
        self._slices: set[tuple[int, int, int]] = set()
        self._stage = ""
        self._stage_began = 0.0
        self._last_redraw = float("-inf")
        self._found: FoundStructures | None = None  # of a whole run, not of corrections
        self._corrections: Corrections | None = None
        self._kept: _Kept | None = None  # what the worker keeps for corrections
        # Which image the result of the run on this scene was made of, as the worker reports it.
        self._segmented: tuple[Scene, str] | None = None

    @property
    def status(self) -> Status:
        return self._status

    @property
    def is_settled(self) -> bool:
        """Whether nothing of a run is left to do."""
        return not self._status.is_running and self._closing is None

    def settle(self) -> None:
        """Do at once what the last run has left to do, where it is over."""
        while self._closing is not None:
            self._close_a_step()

    def start(
        self,
        scene: Scene,
        settings: RunSettings,
        learned: Learned | None = None,
        *,
        segment: bool = True,
    ) -> None:
        """Begin a run: learn from the scene's support cases, unless `learned`; then segment.

        segment: False to only learn.
        """
        if self._status.is_running:
            raise RuntimeError("A run is already in progress.")
        self.settle()
        self._clear()
        self._scene, self._settings, self._learned = scene, settings, learned
        self._only_learn = not segment
        self._status = Status(State.CHECKING, "Starting the worker")
        self._stage_began = self._clock()
        if learned is None:
            self._steps = self._read_support(scene)
        self._request(lambda client: client.hello(), self._on_ready)
        self._tell()

    def correct(self, scene: Scene, settings: RunSettings, learned: Learned) -> None:
        """Learn from what was corrected in the result of a run on `scene`, and have the slices that
        change by it come as in a run. The worker uses what it kept of the volume, where it does."""
        if self._status.is_running:
            raise RuntimeError("A run is already in progress.")
        self.settle()
        self._clear()
        self._scene, self._settings, self._learned = scene, settings, learned
        self._status = Status(State.SEGMENTING, "Reading the corrections")
        self._stage_began = self._clock()
        self._steps = self._read_corrections(scene)
        self._then = self._send_corrections
        self._tell()

    def cancel(self) -> None:
        """Stop the run; slices that have come are kept. Over within 2 s, also where it hangs."""
        if not self._status.is_running or self._status.stopping:
            return
        if self._request_id is None or self._status.state is State.CHECKING:
            if self._request_id is not None:
                self.link.drop(self._request_id)
            self._end(State.CANCELLED)  # nothing is under way that could not simply be left
            return
        self.link.cancel(self._request_id)
        self._set(stopping=True, stage="Stopping")

    def abandon(self) -> None:
        """Forget the run without touching the scene: it is being closed."""
        self._closing = None
        if not self._status.is_running:
            return
        if self._request_id is not None:
            self.link.cancel(self._request_id)
            self.link.drop(self._request_id)
        self._clear()
        self._status = Status()
        self._tell()

    def poll(self) -> None:
        """One tick: events of the worker, a step of reading or finishing, a redraw when due."""
        self.link.poll(WORK_A_TICK_S)
        if not self._status.is_running:
            self._close_a_step()
            return
        try:
            if self._scene is not None and not self._scene.is_intact:
                self._lose_scene()
                return
            self._advance()
            self._redraw()
        except Exception as error:
            self._fail(error)

    # Checking

    def _read_support(self, scene: Scene) -> Steps[None]:
        self._support = yield from scene.support_cases()

    def _on_ready(self, event: Event) -> None:
        if event.name != "ready":
            self._on_failed(event)
            return
        missing = event.header.get("missing") or []
        if missing:
            self._end(
                State.FAILED,
                f"The worker's Python lacks {', '.join(missing)}.",
                "Press Install in the part Model; in a Python of your own, install the package "
                "oflsam2.",
                needs="packages",
            )
            return
        assert self._settings is not None
        backbone = self._needed_backbone()
        absent = [
            entry["name"]
            for entry in event.header.get("backbones", [])
            if entry["name"] == backbone and entry.get("state") != "ready"
        ]
        if absent and not self._settings.weights:
            # The core would fetch them; here nothing is downloaded before the user asks for it.
            self._end(
                State.FAILED,
                f"The weights of the model {backbone} are not on this computer yet.",
                "Press Download model in the part Model, or pick a local file there.",
                needs="weights",
            )
            return
        self._is_ready = True
        self._set(stage="Reading the support cases" if self._learned is None else "Starting")

    def _advance(self) -> None:
        """Go on with reading or finishing for a while, and with what follows."""
        end = self._clock() + WORK_A_TICK_S
        while self._steps is not None and self._clock() < end:
            try:
                next(self._steps)
            except StopIteration:
                self._steps = None
                then, self._then = self._then, None
                if then is not None:
                    then()
        if self._status.state is State.CHECKING and self._is_ready and self._steps is None:
            self._show_notes()
            if self._learned is None:
                self._learn()
            else:
                self._segment(0)

    # Learning

    def _learn(self) -> None:
        assert self._settings is not None
        support, self._support = self._support, []
        fields = self._settings.for_learning()
        self._enter(State.LEARNING, "Learning from the support cases")
        self._request(
            lambda client: client.learn(support, return_task=True, **fields), self._on_learning
        )

    def _on_learning(self, event: Event) -> None:
        if event.name == "progress":
            self._on_progress(event)
        elif event.name == "failed":
            self._on_failed(event)
        elif event.name == "done":
            self._request_id = None
            self._learned = learned_from(event)
            self.on_learned(self._learned)
            if self._only_learn:
                self._end(State.DONE, "The task is learned.")
            elif self._status.stopping:
                self._end(State.CANCELLED)
            else:
                self._segment(0)

    # Segmenting

    def _segment(self, frame: int) -> None:
        """Make the output ready, in steps, then send the volume."""
        assert self._scene is not None and self._learned is not None
        self._frame = frame
        count = self._scene.frame_count
        if frame == 0:
            self._found = FoundStructures(self._learned.structures, self._learned.sizes)
            self._enter(State.SEGMENTING, "Segmenting")
        self._set(stage=f"Segmenting, volume {frame + 1} of {count}" if count > 1 else "Segmenting")
        self._steps = self._scene.begin(frame, self._learned.structures)
        self._then = self._send_volume

    def _send_volume(self) -> None:
        assert self._scene is not None and self._settings is not None
        assert self._learned is not None
        volume, content = self._scene.volume(self._frame), self._learned.content
        fields = self._settings.for_segmenting(self._learned.method)
        scene, learned = self._scene, self._learned
        keep = scene.frame_count == 1  # for corrections
        if self._found is not None:
            self._found.begin(self._frame, volume)

        def send(client: WorkerClient) -> int:
            number = client.segment(volume, task=content, keep=keep, **fields)
            if keep:
                self._kept = _Kept(scene, learned, client.pid, number)
            return number

        self._request(send, self._on_segmenting)

    def _on_segmenting(self, event: Event) -> None:
        if event.name == "slice":
            result = event.slice_result()
            if self._scene is not None and self._scene.is_intact:
                self._scene.add(result)
                self._slices.add((self._frame, result.axis, result.index))
                if self._found is not None:
                    self._found.add(self._frame, result)
                self._set(slices_done=len(self._slices))
        elif event.name == "progress":
            self._on_progress(event)
        elif event.name == "failed":
            self._on_failed(event)
        elif event.name == "done":
            self._request_id = None
            assert self._scene is not None
            self._segmented = self._scene, str(event.header.get("image", ""))
            self._steps = self._scene.end(self._frame, self._segmented[1])
            self._then = self._after_frame

    def _after_frame(self) -> None:
        assert self._scene is not None
        if self._status.stopping:
            self._end(State.CANCELLED)
        elif self._frame + 1 < self._scene.frame_count:
            self._segment(self._frame + 1)
        else:
            self._set(stage="Finishing")
            self._steps = self._scene.finish(complete=True)
            self._then = self._done

    def _done(self) -> None:
        assert self._found is not None
        for words in self._found.in_words():
            self._note(words)
        self._set(structures=self._found.statuses())
        self._end(State.DONE, f"{counted(len(self._slices), 'slice')} segmented.")

    # Correcting

    def _read_corrections(self, scene: Scene) -> Steps[None]:
        self._corrections = yield from scene.corrections()

    def _send_corrections(self) -> None:
        assert self._scene is not None and self._settings is not None
        assert self._learned is not None and self._corrections is not None
        corrections, self._corrections = self._corrections, None
        volume, content = self._scene.volume(0), self._learned.content
        scene, learned = self._scene, self._learned
        fields = self._settings.for_segmenting(learned.method)
        if self._segmented is not None and self._segmented[0] is scene:
            corrections = replace(corrections, image=self._segmented[1])

        def send(client: WorkerClient) -> int:
            kept = self._kept
            if kept is not None and kept.is_of(scene, learned, client.pid):
                return client.correct(corrections, kept.request, return_task=True)
            described, arrays = payloads.volume_to(volume)
            of_image, corrected = payloads.corrections_to(corrections)
            fields_of_all = {**fields, **described, **of_image, "return_task": True}
            number = client.request(
                "correct", fields_of_all, {**arrays, **corrected, "task": content}
            )
            self._kept = _Kept(scene, learned, client.pid, number)
            return number

        self._set(stage="Learning from the corrections")
        self._request(send, self._on_correcting)

    def _on_correcting(self, event: Event) -> None:
        if event.name != "done":
            self._on_segmenting(event)
            return
        self._request_id = None
        self._learned = learned_from(event)
        if self._kept is not None:
            self._kept = replace(self._kept, learned=self._learned)
        self.on_learned(self._learned)
        assert self._scene is not None
        self._steps = self._scene.end(0)
        self._then = self._after_correcting

    def _after_correcting(self) -> None:
        assert self._scene is not None
        self._set(stage="Finishing")
        self._steps = self._scene.finish(complete=True)
        self._then = self._corrected

    def _corrected(self) -> None:
        self._end(
            State.DONE,
            f"Learned from the corrections: {counted(len(self._slices), 'slice')} predicted again.",
        )

    # Progress and ends

    def _on_progress(self, event: Event) -> None:
        stage = str(event.header.get("stage", ""))
        done, total = int(event.header.get("done", 0)), int(event.header.get("total", 0))
        if stage != self._stage:
            self._stage, self._stage_began = stage, self._clock()
        words = STAGES.get(stage, stage)
        if self._scene is not None and self._scene.frame_count > 1 and not self._only_learn:
            words += f", volume {self._frame + 1} of {self._scene.frame_count}"
        if self._status.stopping:
            words = "Stopping"
        fields: dict[str, Any] = {"stage": words, "done": done, "total": total}
        if stage == "segment" and self._scene is not None:
            fields["slices_total"] = total * self._scene.frame_count
        self._set(**fields, seconds_left=self._seconds_left(done, total))

    def _seconds_left(self, done: int, total: int) -> float | None:
        elapsed = self._clock() - self._stage_began
        if done < 1 or total <= done or elapsed < 2.0:
            return None
        return elapsed / done * (total - done)

    def forget_kept(self) -> None:
        """The worker's calculations for the last volume are not built on any more; corrections are
        sent with their volume."""
        self._kept = None

    def _needed_backbone(self) -> str:
        """The backbone that the run needs; "" where the method needs none."""
        if self._learned is not None:
            return self._learned.backbone
        assert self._settings is not None
        needed = get_method(self._settings.method).needs_backbone
        return self._settings.backbone if needed else ""

    def _on_failed(self, event: Event) -> None:
        self.forget_kept()
        self._request_id = None
        header = event.header
        if header.get("kind") == "cancelled":
            self._end(State.CANCELLED)
            return
        message = str(header.get("message", "The worker gave up."))
        log = tuple(str(line) for line in header.get("log", []))
        self._end(State.FAILED, message, str(header.get("hint", "")), log)

    def _lose_scene(self) -> None:
        if self._request_id is not None:
            self.link.cancel(self._request_id)
            self.link.drop(self._request_id)
        self._clear()
        self._status = Status(
            State.CANCELLED, message="Stopped: the volume or its segmentation was removed."
        )
        self._tell()

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OFLSAM2Error):
            message, hint = error.message, error.hint
        else:
            _log.exception("The run failed")
            message = f"Something unexpected happened: {type(error).__name__}: {error}"
            hint = "Please report this, with the log."
        if self._request_id is not None:
            self.link.cancel(self._request_id)
            self.link.drop(self._request_id)
        self._end(State.FAILED, message, hint)

    def _end(
        self,
        state: State,
        message: str = "",
        hint: str = "",
        log: tuple[str, ...] = (),
        needs: str = "",
    ) -> None:
        if state is State.CANCELLED and not message:
            kept = len(self._slices)
            message = (
                f"Cancelled. {counted(kept, 'slice')} {'is' if kept == 1 else 'are'} kept."
                if kept
                else "Cancelled."
            )
        scene, notes = self._scene, self._status.notes
        slices, total = self._status.slices_done, self._status.slices_total
        if scene is not None and scene.is_intact:
            try:
                scene.flush()
                notes = tuple(scene.notes)
                if state is not State.DONE:
                    self._closing = scene.finish(complete=False)
            except Exception as error:
                _log.exception("The run could not be ended well")
                message = f"{message} {type(error).__name__}: {error}"
        self._clear()
        self._status = Status(
            state,
            slices_done=slices,
            slices_total=total,
            message=message,
            hint=hint,
            log=log,
            notes=notes,
            needs=needs,
            structures=self._status.structures if state is State.DONE else {},
        )
        self._tell()

    # Small things

    def _close_a_step(self) -> None:
        if self._closing is None:
            return
        try:
            next(self._closing)
        except StopIteration:
            self._closing = None
        except Exception:
            _log.exception("The run could not be ended well")
            self._closing = None

    def _clear(self) -> None:
        self._scene = None
        self._settings = None
        self._learned = None
        self._support = []
        self._steps = None
        self._then = None
        self._request_id = None
        self._only_learn = False
        self._is_ready = False
        self._frame = 0
        self._slices = set()
        self._found = None
        self._stage = ""
        self._stage_began = 0.0
        self._last_redraw = float("-inf")

    def _request(self, send: Callable[[Any], int], handler: Callable[[Event], None]) -> None:
        """Send a request whose failure ends the run."""

        def guarded(event: Event) -> None:
            try:
                if event.name == "log":
                    self._note(str(event.header.get("text", "")))
                else:
                    handler(event)
            except Exception as error:
                self._fail(error)

        try:
            self._request_id = self.link.request(send, guarded)
        except OFLSAM2Error as error:
            self._fail(error)

    def _redraw(self) -> None:
        now = self._clock()
        if self._scene is not None and now - self._last_redraw >= REDRAW_EVERY_S:
            self._last_redraw = now
            self._scene.flush()

    def _enter(self, state: State, stage: str) -> None:
        self._stage, self._stage_began = "", self._clock()
        self._status = replace(
            self._status, state=state, stage=stage, done=0, total=0, seconds_left=None
        )
        self._tell()

    def _set(self, **fields: Any) -> None:
        self._status = replace(self._status, **fields)
        self._tell()

    def _note(self, warning: str) -> None:
        """Show what the worker warns of, or what was found, beside what is known of the inputs."""
        if self._scene is not None and warning and warning not in self._scene.notes:
            self._scene.notes.append(warning)
            self._show_notes()

    def _show_notes(self) -> None:
        if self._scene is not None and self._scene.notes:
            self._set(notes=tuple(self._scene.notes))

    def _tell(self) -> None:
        self.on_status(self._status)


def learned_from(event: Event) -> Learned:
    """The learned task that a "done" event of "learn" carries."""
    structures = tuple(Structure.from_json(item) for item in event.header.get("structures", []))
    return Learned(
        content=event.arrays["task"],
        structures=structures,
        backbone=str(event.header.get("backbone", "")),
        summary=event.header.get("summary", ""),
        method=str(event.header.get("method", "")),
        sizes={
            str(name): (float(least), float(most))
            for name, (least, most) in (event.header.get("sizes") or {}).items()
        },
        volume_count=int(event.header.get("volume_count", 1)),
    )
