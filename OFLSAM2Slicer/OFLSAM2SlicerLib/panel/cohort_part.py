"""Part 6: a cohort worked through in the background, and its cases, least sure first.

A cohort is the volumes of a folder, or those of the scene, which are written as files first.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _

from OFLSAM2Core.app.steps import Steps, run_steps
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.worker.client import worker_environment
from OFLSAM2SlicerLib.cohort_review import (
    ACCEPTED,
    CORRECTED,
    CORRECTIONS,
    REJECTED,
    Cohort,
    CohortCase,
    can_go_on,
    go_on,
    last_words,
    load_case,
    reviewed_run,
    start_cohort,
)
from OFLSAM2SlicerLib.controller import Controller
from OFLSAM2SlicerLib.panel import tables
from OFLSAM2SlicerLib.scene_nodes import is_in_scene
from OFLSAM2SlicerLib.scene_queue import volumes_to_queue, write_queue
from OFLSAM2SlicerLib.scene_run import SceneRun

# Exit code of `oflsam2 cohort` where some cases have no result, which the table says.
SOME_FAILED = 3
FOLDER_SETTING = "OFLSAM2/Cohort"
ROWS = 10
REFRESH_MS = 3000


class CohortPart:
    """loaded: called with volume, segmentation and confidence node of a case that was loaded, and
    the nodes of volumes that are co-registered with it.
    not_queued: volumes of the scene that are not to be segmented, as support cases."""

    def __init__(
        self,
        ui: Any,
        controller: Controller,
        loaded: Callable[[Any, Any, Any, tuple[Any, ...]], None],
        say: Callable[[str], None],
        not_queued: Callable[[], list[Any]] = list,
    ) -> None:
        self._not_queued = not_queued
        self._process: subprocess.Popen[bytes] | None = None
        self._ui = ui
        self._controller = controller
        self._loaded = loaded
        self._say = say
        self._cohort: Cohort | None = None
        self._last = ""  # name of the case that was asked for last
        self._nodes: tuple[Any, ...] = ()  # of that case
        # The case that the user sees, and what its segmentation held when it was loaded. Only that
        # case can be judged.
        self._current: CohortCase | None = None
        self._run: SceneRun | None = None
        self._held: Any = None
        self._timer = qt.QTimer()
        self._timer.setInterval(REFRESH_MS)
        self._timer.connect("timeout()", self.refresh)
        tables.stretch(ui.cohortTable, 3)
        ui.openCohortButton.connect("clicked(bool)", self._on_open)
        ui.startCohortButton.connect("clicked(bool)", self._on_start)
        ui.startSceneCohortButton.connect("clicked(bool)", self._on_start_scene)
        ui.goOnCohortButton.connect("clicked(bool)", self._on_go_on)
        ui.nextCaseButton.connect("clicked(bool)", lambda *_args: self.next_case())
        ui.acceptCaseButton.connect("clicked(bool)", lambda *_args: self._on_verdict(ACCEPTED))
        ui.rejectCaseButton.connect("clicked(bool)", lambda *_args: self._on_verdict(REJECTED))
        ui.saveCaseButton.connect("clicked(bool)", lambda *_args: self._on_verdict(CORRECTED))
        ui.cohortTable.connect("cellDoubleClicked(int,int)", self._on_double_clicked)
        folder = qt.QSettings().value(FOLDER_SETTING)
        if folder and Path(str(folder)).is_dir():
            self.open(str(folder))
        self._fill()

    def open(self, folder: str) -> None:
        """Show the cohort in a folder, also the one of an earlier day or of the command line."""
        try:
            cohort = Cohort(folder)
        except OFLSAM2Error as error:
            self._say(str(error))
            return
        if self._cohort is None or cohort.folder != self._cohort.folder:
            self._let_go()
        self._cohort = cohort
        qt.QSettings().setValue(FOLDER_SETTING, folder)
        self._fill()

    def start(self, inputs: str, folder: Path) -> None:
        """Segment the volumes of a folder, or of a list, with the learned task, also while Slicer
        is closed."""

        def begin(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
            task = self._controller.save_task(folder.with_name(f"{folder.name}-task"))
            return start_cohort(command, environment, [inputs], task, folder)

        self._begin(begin, folder)

    def start_scene(self, parent: Path) -> None:
        """Segment the volumes of the scene with the learned task. They are written to a folder of
        `parent` first, a volume a tick; what was queued there before stays in the queue."""
        if self._refuses_scene():
            return
        others = [*self._not_queued(), *self._nodes]
        nodes = volumes_to_queue(slicer.mrmlScene, others)
        if not nodes:
            self._say(_("The scene holds no volume but those of the support."))
            return
        self._say(_("{count} volumes are written to files.").format(count=len(nodes)))
        self._controller.go_through("queue", self._queue(nodes, parent), self._say)

    def _refuses_scene(self) -> bool:
        """Say why the scene cannot be queued, where its task is of several volumes a case."""
        learned = self._controller.learned
        if learned is None or learned.volume_count == 1:
            return False
        self._say(
            _(
                "The task was learned from cases of {count} co-registered volumes, and which "
                "volumes of the scene belong to one patient is not known. Segment them one by one, "
                "or give a folder with nnU-Net's channels (CASE_0000, CASE_0001)."
            ).format(count=learned.volume_count)
        )
        return True

    def _queue(self, nodes: list[Any], parent: Path) -> Steps[None]:
        try:
            path = yield from write_queue(nodes, parent / "scene-volumes")
        except OFLSAM2Error as error:
            self._say(str(error))
            return
        self.start(str(path), parent / "scene-cohort")

    def _begin(
        self,
        begin: Callable[[Sequence[str], dict[str, str]], subprocess.Popen[bytes]],
        folder: Path,
    ) -> None:
        command = self._controller.link.command
        if not command.is_python:
            self._say(
                _(
                    "A cohort needs a Python on this computer. On another one, run "
                    "`oflsam2 cohort` there, and open its folder here."
                )
            )
            return
        try:
            self._process = begin(command.command[:1], worker_environment(command.env))
        except (OFLSAM2Error, OSError) as error:
            self._say(str(error))
            return
        if self._cohort is None or folder != self._cohort.folder:
            self._let_go()
        qt.QSettings().setValue(FOLDER_SETTING, str(folder))
        self._cohort = None
        self._fill()
        self._say(_("The cohort has been started; it goes on when Slicer is closed."))
        self._timer.start()

    def _show_end(self, folder: str) -> None:
        """Say why the process has ended, where it was not at its end."""
        if self._process is None or self._process.poll() is None:
            return
        code, self._process = self._process.returncode, None
        if code not in (0, SOME_FAILED):
            self._say(_("The cohort has stopped. {words}").format(words=last_words(Path(folder))))

    def follow(self, followed: bool) -> None:
        """Look again and again how far the cohort is, while the module is open."""
        if followed and qt.QSettings().value(FOLDER_SETTING):
            self._timer.start()
        else:
            self._timer.stop()

    def refresh(self, *_args: Any) -> None:
        folder = str(qt.QSettings().value(FOLDER_SETTING) or "")
        self._show_end(folder)
        if (
            not (Path(folder) / "manifest.jsonl").is_file()
            or self._ui.cohortCollapsibleButton.collapsed
        ):
            return
        try:
            if self._cohort is None:
                self._cohort = Cohort(folder)
            else:
                self._cohort.refresh()
        except OFLSAM2Error as error:
            self._timer.stop()
            self._say(str(error))
            return
        self._fill()

    def scene_is_closing(self) -> None:
        """The nodes of the case that is open go with the scene; those of the next scene may have
        the same IDs, and must not be taken for it."""
        self._let_go()
        self._fill()

    def next_case(self) -> None:
        """Load the least sure case that nobody has looked at yet."""
        if self._cohort is not None:
            self._cohort.refresh()
            case = self._cohort.following(self._last)
            if case is None:
                self._say(_("All cases that are segmented were looked at."))
                self._fill()
            else:
                self.load(case)

    def load(self, case: CohortCase) -> None:
        """Open a case with its result, its confidence and its doubtful slices; the case before
        leaves the scene. It can be judged once the user sees it, and not by a second click that
        was meant for the case before."""
        assert self._cohort is not None
        if self._is_running() or not self._may_leave():
            return
        try:
            nodes = load_case(self._cohort, case)
        except (OFLSAM2Error, RuntimeError) as error:
            self._say(str(error))
            return
        self._leave()
        self._last = case.name
        *three, further = nodes
        self._nodes = tuple(node for node in (*three, *further) if node is not None)
        self._controller.go_through("case of a cohort", self._steps(case, nodes), self._say)
        self._fill()

    def _is_running(self) -> bool:
        running = self._controller.status.is_running
        if running:
            self._say(_("A run is under way: wait until it is done, or cancel it."))
        return running

    def _steps(self, case: CohortCase, nodes: tuple[Any, Any, Any, tuple[Any, ...]]) -> Steps[None]:
        learned = self._controller.learned
        run = yield from reviewed_run(*nodes, learned.structures if learned is not None else ())
        held = yield from _held_by(run)
        if not run.is_intact or self._is_running():  # deleted, or a run was started meanwhile
            self._leave()
            return
        self._controller.run = self._run = run
        self._current, self._held = case, held
        self._loaded(*nodes)
        self._fill()

    def _may_leave(self) -> bool:
        """Ask before changes that were not saved go with their case."""
        if self._run is None or not self._run.is_intact or self._current is None:
            return True
        names, labels = run_steps(_held_by(self._run))
        if names == self._held[0] and np.array_equal(labels, self._held[1]):
            return True
        question = _(
            "The segmentation of '{name}' was changed since it was loaded; only Save correction "
            "keeps that. Go on without it?"
        )
        return bool(
            slicer.util.confirmOkCancelDisplay(
                question.format(name=self._current.name), windowTitle=_("OFL-SAM2: cohort")
            )
        )

    def _leave(self) -> None:
        """Take the case out of the scene."""
        for node in self._nodes:
            if node.GetScene() is not None:
                node.GetScene().RemoveNode(node)
        self._let_go()

    def _let_go(self) -> None:
        """Nothing in the scene is a case of the cohort any more."""
        self._nodes, self._current, self._run, self._held = (), None, None, None
        self._last = ""

    def _on_verdict(self, verdict: str) -> None:
        if self._cohort is None or self._current is None:
            return
        case = self._current
        if self._is_running() or (verdict != CORRECTED and not self._may_leave()):
            return
        try:
            if verdict == CORRECTED:
                if not is_in_scene(self._nodes[1]):
                    self._say(_("The segmentation of '{name}' was deleted.").format(name=case.name))
                    return
                folder = self._cohort.folder / CORRECTIONS
                folder.mkdir(exist_ok=True)
                path = folder / f"{case.name}.seg.nrrd"
                if not slicer.util.saveNode(self._nodes[1], str(path)):
                    self._say(_("'{path}' could not be written.").format(path=path))
                    return
            self._cohort.say(case.name, verdict)
        except (OFLSAM2Error, OSError) as error:
            self._say(str(error))
            return
        if self._run is not None and self._run.is_intact:
            self._held = run_steps(_held_by(self._run))  # saved, or to be let go
        self.next_case()

    def _fill(self) -> None:
        cases = self._cohort.cases if self._cohort is not None else []
        texts = [
            (
                case.name,
                case.verdict or case.state,
                "" if case.confidence is None else f"{case.confidence:.2f}",
                _milliliters(case),
            )
            for case in cases
        ]
        tables.fill(self._ui.cohortTable, texts)
        tables.fit(self._ui.cohortTable, ROWS)
        for row, case in enumerate(cases):
            self._ui.cohortTable.item(row, 1).setToolTip(case.reason)
            self._ui.cohortTable.item(row, 3).setToolTip(texts[row][3])
            if self._current is not None and case.name == self._current.name:
                tables.select_row(self._ui.cohortTable, row)
        due = sum(case.is_due for case in cases)
        done = sum(case.is_segmented for case in cases)
        self._ui.cohortLabel.text = (
            _("{folder}: {done} of {all} cases segmented, {due} to be looked at.").format(
                folder=self._cohort.folder.name, done=done, all=len(cases), due=due
            )
            if self._cohort is not None
            else _("No cohort is open.")
        )
        self._ui.nextCaseButton.enabled = bool(due)
        self._ui.goOnCohortButton.enabled = (
            self._cohort is not None and self._process is None and can_go_on(self._cohort)
        )
        for name in ("acceptCaseButton", "rejectCaseButton", "saveCaseButton"):
            getattr(self._ui, name).enabled = self._current is not None

    def _on_double_clicked(self, row: int, column: int) -> None:
        if self._cohort is not None and row < len(self._cohort.cases):
            self.load(self._cohort.cases[row])

    def _on_open(self, *_args: Any) -> None:
        folder = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Open a cohort's folder")
        )
        if folder:
            self.open(str(folder))

    def _on_start(self, *_args: Any) -> None:
        if self._controller.learned is None:
            self._say(_("Learn or load a task first, in the part Learned task."))
            return
        window = slicer.util.mainWindow()
        inputs = qt.QFileDialog.getExistingDirectory(window, _("Folder of volumes to segment"))
        if not inputs:
            return
        parent = qt.QFileDialog.getExistingDirectory(window, _("Where the results go"))
        if parent:
            self.start(str(inputs), Path(str(parent)) / f"{Path(str(inputs)).name}-cohort")

    def _on_start_scene(self, *_args: Any) -> None:
        if self._controller.learned is None:
            self._say(_("Learn or load a task first, in the part Learned task."))
            return
        if self._refuses_scene():
            return
        parent = qt.QFileDialog.getExistingDirectory(
            slicer.util.mainWindow(), _("Where the volumes of the scene and their results go")
        )
        if parent:
            self.start_scene(Path(str(parent)))

    def _on_go_on(self, *_args: Any) -> None:
        if self._cohort is not None:
            folder = self._cohort.folder
            self._begin(lambda command, environment: go_on(command, environment, folder), folder)
            self.refresh()


def _held_by(run: SceneRun) -> Steps[tuple[list[str], Any]]:
    """Names of all segments of a result, and the labels of those that are the run's; in steps."""
    labels = yield from run.labels_now()
    segmentation = run.segmentation.GetSegmentation()
    count = segmentation.GetNumberOfSegments()
    return [segmentation.GetNthSegment(place).GetName() for place in range(count)], labels


def _milliliters(case: CohortCase) -> str:
    volumes = case.milliliters or {}
    return ", ".join(f"{name} {ml:.1f}" for name, ml in volumes.items() if ml is not None)
