"""Everything a panel or a script can ask for, behind one object; no Qt.

Whoever uses it calls `poll` again and again (a timer, or a loop).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from OFLSAM2Core.app.presenter import WORK_A_TICK_S, Presenter, learned_from
from OFLSAM2Core.app.run_request import Learned, RunSettings, Scene
from OFLSAM2Core.app.states import Status
from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.data.structures import Structure, find_structure
from OFLSAM2Core.errors import InputError, OFLSAM2Error
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2Core.worker.client import Event
from OFLSAM2SlicerLib.cases import SupportPair, read_support_case, structures_of
from OFLSAM2SlicerLib.confidence import new_confidence_node
from OFLSAM2SlicerLib.correction_step import CorrectionStep
from OFLSAM2SlicerLib.scene_nodes import is_in_scene
from OFLSAM2SlicerLib.scene_run import SceneRun
from OFLSAM2SlicerLib.sequences import run_for
from OFLSAM2SlicerLib.worker_link import WorkerLink

Answer = Callable[[dict[str, Any]], None]
Failure = Callable[[str], None]


class Controller:
    """Runs, the learned task, undo, and questions to the worker.

    listeners: called with each new Status.
    wake: called when `poll` is needed from now on.
    learned: what was learned or loaded last.
    run: the scene side of the last run.
    """

    def __init__(self, link: WorkerLink) -> None:
        self.link = link
        self.presenter = Presenter(link, self._tell, self._remember)
        self.listeners: list[Callable[[Status], None]] = []
        self.wake: Callable[[], None] = lambda: None
        self.learned: Learned | None = None
        self.run: SceneRun | None = None
        self._is_polling = False
        # The task before each step of corrections.
        self._taught: list[tuple[CorrectionStep, Learned | None]] = []
        # Work of several ticks, by what it is for; the first one goes on until it is over.
        self._background: dict[str, Steps[None]] = {}

    @property
    def status(self) -> Status:
        return self.presenter.status

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to poll for."""
        return self.presenter.is_settled and not self.link.needs_poll and not self._background

    def poll(self) -> None:
        """One tick. Not again within one: what a tick calls may let the application go on (a
        dialog does), and with it the timer."""
        if self._is_polling:
            return
        self._is_polling = True
        try:
            self.presenter.poll()
            self._go_on()
        finally:
            self._is_polling = False

    def segment(
        self,
        target: Any,
        settings: RunSettings,
        pairs: Sequence[SupportPair] = (),
        learned: Learned | None = None,
        segmentation: Any = None,
        confidence: Any = None,
        with_confidence: bool = True,
        wanted: Sequence[Structure] | None = None,
        further: Sequence[Any] = (),
    ) -> Any:
        """Start a run, and return the segmentation node it will fill.

        learned: a task to use; otherwise it is learned from `pairs`.
        further: volume nodes that are co-registered with the target.
        Raises InputError for what cannot be used.
        """
        self._check_free()
        if learned is None and not pairs:
            raise InputError(
                "There is no support case.", "Give at least one volume with its segmentation."
            )
        scene, name = target.GetScene(), target.GetName()
        made = []
        if not is_in_scene(segmentation):
            segmentation = scene.AddNewNodeByClass(
                "vtkMRMLSegmentationNode", scene.GetUniqueNameByString(f"{name} segmentation")
            )
            made.append(segmentation)
        try:
            run = run_for(target, segmentation, pairs, list(wanted) if wanted else None, further)
        except InputError:
            for node in made:
                scene.RemoveNode(node)
            raise
        if with_confidence:
            if not is_in_scene(confidence) or confidence is target:
                confidence = new_confidence_node(target)
                made.append(confidence)
            run.confidence = confidence
        run.made = made
        if self.run is not None:
            run.undo = self.run.undo
        self.run = run
        self._taught.clear()
        self.presenter.start(run, settings, learned)
        self.wake()
        return segmentation

    def predict(self, scene: Scene, settings: RunSettings, learned: Learned) -> None:
        """Start a run that writes elsewhere than into a result to be reviewed.

        Raises InputError where the worker is busy.
        """
        self._check_free()
        self.presenter.start(scene, settings, learned)
        self.wake()

    def learn(
        self,
        settings: RunSettings,
        pairs: Sequence[SupportPair],
        wanted: Sequence[Structure] | None = None,
    ) -> None:
        """Start learning from support cases, without segmenting anything."""
        self._check_free()
        if not pairs:
            raise InputError(
                "There is no support case.", "Give at least one volume with its segmentation."
            )
        learning = LearningRun(pairs, list(wanted) if wanted else None)
        self.presenter.start(learning, settings, segment=False)
        self.wake()

    def cancel(self) -> None:
        self.presenter.cancel()

    # The way back

    @property
    def can_undo(self) -> bool:
        return bool(self.run and self.run.can_take_back and not self.status.is_running)

    def undo(self) -> None:
        """The output segmentation as it was before the last step of corrections, or the last run;
        what corrections taught is forgotten with them."""
        if self.can_undo:
            assert self.run is not None
            step = self.run.take_back()
            if self._taught and self._taught[-1][0] is step:
                _step, self.learned = self._taught.pop()
                self.presenter.forget_kept()

    # Corrections

    def find_corrections(self, then: Callable[[list[int]], None]) -> None:
        """Look which slices of the last run's result were changed since; a few milliseconds a tick.
        A later call replaces one that is under way."""
        if self.run is not None and not self.status.is_running:
            self._do("corrections", self._find_corrections(self.run, then))

    def correct(self, settings: RunSettings) -> None:
        """Learn from what was corrected in the last run's result, and predict the other slices
        anew. Raises InputError where there is no result, no learned task, or one of other
        structures."""
        self._check_free()
        if self.run is None:
            raise InputError("There is no result to be corrected.", "Segment a volume first.")
        if self.learned is None:
            raise InputError(
                "There is no learned task that could learn from the corrections.",
                "Load the one that made this result.",
            )
        known, found = _labels(self.learned.structures), _labels(self.run.scores.structures)
        if known != found:
            raise InputError(
                f"The learned task knows {_names(known)}; the result is of {_names(found)}.",
                "Load the task that made this result.",
            )
        self.presenter.correct(self.run, settings, self.learned)
        self.wake()

    def add_case(
        self, pair: SupportPair, settings: RunSettings, then: Callable[[], None], failed: Failure
    ) -> None:
        """Have the learned task grow by a support case, in the background; nothing is learned from
        nothing. Raises InputError where there is no learned task, or the worker is busy."""
        self._check_free()
        if self.learned is None:
            raise InputError("Nothing is learned yet.", "Learn from support cases first.")
        own = structures_of(pair.labels_node)
        missing = [one.name for one in self.learned.structures if not find_structure(one, own)]
        if missing and not settings.allow_missing:
            # It would be learned that the structure is nowhere in this volume.
            raise InputError(
                f"'{pair.labels_node.GetName()}' has no segment '{missing[0]}', which the learned "
                "task knows.",
                "Name the segment so, or allow structures to be missing.",
            )
        self._do("case", self._add_case(pair, self.learned, settings, then, failed))

    def _add_case(
        self,
        pair: SupportPair,
        learned: Learned,
        settings: RunSettings,
        then: Callable[[], None],
        failed: Failure,
    ) -> Steps[None]:
        try:
            read = yield from read_support_case(pair, list(learned.structures))
        except InputError as error:
            failed(str(error))
            return

        def handler(event: Event) -> None:
            if event.name == "failed":
                failed(in_words(event))
            elif event.name == "done":
                self.learned = learned_from(event)
                self._taught.clear()  # earlier tasks lack this case
                then()

        fields = settings.for_worker()
        try:
            self.link.request(
                lambda client: client.add_case(read.case, learned.content, **fields), handler
            )
        except OFLSAM2Error as error:
            failed(str(error))

    def go_through(self, name: str, steps: Steps[Any], failed: Failure) -> None:
        """Go through steps, a few milliseconds a tick; instead of those of this name that are under
        way."""
        self._do(name, self._go_through(steps, failed))

    def _go_through(self, steps: Steps[Any], failed: Failure) -> Steps[None]:
        try:
            yield from steps
        except InputError as error:
            failed(str(error))

    def _find_corrections(self, run: SceneRun, then: Callable[[list[int]], None]) -> Steps[None]:
        found = yield from run.corrected_slices()
        if run is self.run and not self.status.is_running:
            then(found)

    def _go_on(self) -> None:
        end = time.monotonic() + WORK_A_TICK_S
        while self._background and time.monotonic() < end:
            name, steps = next(iter(self._background.items()))
            try:
                next(steps)
            except StopIteration:
                # What came last may have begun the next of this name.
                if self._background.get(name) is steps:
                    del self._background[name]
            except Exception:
                self._background.pop(name, None)
                raise

    def _do(self, name: str, steps: Steps[None]) -> None:
        self._background[name] = steps
        self.wake()

    # The learned task

    def save_task(self, path: str | Path) -> Path:
        """Raises InputError where nothing is learned, ResourceError where it cannot be written."""
        if self.learned is None:
            raise InputError("Nothing is learned yet.", "Learn from support cases first.")
        path = task_file(path)
        with atomic_write(path) as beside:
            beside.write_bytes(self.learned.content.tobytes())
        return path

    def load_task(self, path: str | Path, then: Callable[[Learned], None], failed: Failure) -> None:
        """Read a task file; the worker checks it and says what is in it."""
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            failed(f"'{path}' cannot be read: {error.strerror}.")
            return

        def on_event(event: Event) -> None:
            if event.name == "done":
                event.arrays["task"] = content
                self.learned = learned_from(event)
                then(self.learned)

        self._ask("load_task", {}, on_event, failed, {"task": content})

    def forget_task(self) -> None:
        self.learned = None

    # Questions to the worker

    def about_worker(self, then: Answer, failed: Failure) -> None:
        """Its packages, devices and backbones."""
        self._ask("hello", {}, _last(then), failed)

    def fetch_weights(
        self, backbone: str, on_event: Callable[[Event], None], failed: Failure
    ) -> int:
        """Download a backbone's weights; `cancel_request` stops it."""
        return self._ask("fetch_weights", {"backbone": backbone}, on_event, failed)

    def remove_weights(self, backbone: str, then: Answer, failed: Failure) -> None:
        self._ask("remove_weights", {"backbone": backbone}, _last(then), failed)

    def cancel_request(self, number: int) -> None:
        self.link.cancel(number)

    # The end

    def scene_is_closing(self) -> None:
        self.presenter.abandon()
        self.run = None
        self._taught.clear()
        self._background.clear()

    def shut_down(self) -> None:
        """No process is left behind."""
        self.presenter.abandon()
        self.link.close()

    def _ask(
        self,
        name: str,
        fields: dict[str, Any],
        on_event: Callable[[Event], None],
        failed: Failure,
        arrays: dict[str, Any] | None = None,
    ) -> int:
        def handler(event: Event) -> None:
            if event.name == "failed":
                failed(in_words(event))
            else:
                on_event(event)

        self.wake()
        try:
            return self.link.request(lambda client: client.request(name, fields, arrays), handler)
        except OFLSAM2Error as error:
            failed(str(error))
            return 0

    def _check_free(self) -> None:
        if self.status.is_running or self.link.is_busy:
            raise InputError(
                "The worker is busy.", "Wait until it is done, or cancel what it is doing."
            )
        # A run that was just cancelled may have nodes to remove, which must not be used again.
        self.presenter.settle()

    def _tell(self, status: Status) -> None:
        for listener in list(self.listeners):
            listener(status)

    def _remember(self, learned: Learned) -> None:
        if self.run is not None and self.run.step is not None:
            self._taught.append((self.run.step, self.learned))
        self.learned = learned


def in_words(event: Event) -> str:
    """What a "failed" event says."""
    parts = (event.header.get("message", ""), event.header.get("hint", ""))
    return "\n".join(str(part) for part in parts if part)


def task_file(path: str | Path) -> Path:
    """With the extension of learned tasks."""
    path = Path(path)
    return path if path.suffix == ".oflsam2" else path.with_name(f"{path.name}.oflsam2")


class LearningRun(SceneRun):
    """The scene side of learning only: there is no output."""

    def __init__(self, pairs: Sequence[SupportPair], wanted: list[Structure] | None) -> None:
        no_output = slicer.vtkMRMLSegmentationNode()
        super().__init__(pairs[0].volume_node, no_output, None, pairs, wanted)

    @property
    def is_intact(self) -> bool:
        return all(
            is_in_scene(pair.volume_node) and is_in_scene(pair.labels_node) for pair in self._pairs
        )


def _labels(structures: Sequence[Structure]) -> dict[int, str]:
    return {structure.label: structure.name for structure in structures}


def _names(labels: dict[int, str]) -> str:
    return ", ".join(labels.values())


def _last(then: Answer) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        if event.is_last:
            then(event.header)

    return on_event
