"""Part 5: the learned task; and the worker, in the part Advanced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from OFLSAM2Core.app.run_request import Learned
from OFLSAM2Core.errors import InputError, OFLSAM2Error
from OFLSAM2SlicerLib.controller import Controller, task_file

COMMAND_SETTING = "OFLSAM2/WorkerCommand"
FILES = "OFL-SAM2 learned tasks (*.oflsam2)"


class TaskPart:
    """changed: called when what can be run may have changed. use_worker: called with the worker's
    command, which every part of the panel talks to."""

    def __init__(
        self,
        ui: Any,
        controller: Controller,
        changed: Callable[[], None],
        use_worker: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._controller = controller
        self._changed = changed
        self._use_worker = use_worker
        self._parameters: Any = None
        ui.loadTaskButton.connect("clicked(bool)", self._on_load)
        ui.saveTaskButton.connect("clicked(bool)", self._on_save)
        ui.forgetTaskButton.connect("clicked(bool)", self._on_forget)
        # A command comes from this computer's settings, never from a scene: scenes are exchanged.
        ui.workerCommandLineEdit.text = str(qt.QSettings().value(COMMAND_SETTING) or "")
        ui.workerCommandLineEdit.connect("editingFinished()", self._on_command)
        ui.advancedCollapsibleButton.connect("contentsCollapsed(bool)", self.show_log)

    def show(self, parameters: Any) -> None:
        self._parameters = parameters
        self.show_learned()

    @property
    def worker_command(self) -> str:
        return str(self._ui.workerCommandLineEdit.text).strip()

    def use_worker(self) -> None:
        """Have the worker started by the command from now on."""
        try:
            self._use_worker(self.worker_command)
        except InputError as error:
            self._say(str(error))

    def can_load(self) -> str:
        """The file of the task that the scene names, where none is loaded and it is there; else
        "". It is read when the user presses Segment, not when a scene is opened."""
        path = str(self._parameters.learnedTaskPath) if self._parameters is not None else ""
        is_there = bool(path) and self._controller.learned is None and Path(path).is_file()
        return path if is_there else ""

    def show_learned(self) -> None:
        learned = self._controller.learned
        path = self.can_load()
        self._ui.learnedTaskLabel.text = (
            _("{path}: read when Segment is pressed.").format(path=path)
            if path
            else in_words(learned)
        )
        self._ui.saveTaskButton.enabled = learned is not None
        self._ui.forgetTaskButton.enabled = learned is not None

    def show_log(self, *_args: Any) -> None:
        if not self._ui.advancedCollapsibleButton.collapsed:
            text = "\n".join(self._controller.link.log_lines())
            if text != self._ui.logText.plainText:
                self._ui.logText.plainText = text

    def load(self, path: str, then: Callable[[], None] | None = None) -> None:
        """Load a task file, use it from now on, and call `then`."""
        self._ui.learnedTaskLabel.text = _("Reading {path}...").format(path=path)
        self._controller.load_task(path, lambda learned: self._on_loaded(path, then), self._say)

    def _on_loaded(self, path: str, then: Callable[[], None] | None) -> None:
        if self._parameters is None:
            return
        self._parameters.learnedTaskPath = path
        self._parameters.useLearnedTask = True
        self.show_learned()
        self._changed()
        if then is not None:
            then()

    def _on_load(self, *_args: Any) -> None:
        path = _path(
            qt.QFileDialog.getOpenFileName(
                slicer.util.mainWindow(), _("Load a learned task"), "", FILES
            )
        )
        if path:
            self.load(path)

    def _on_save(self, *_args: Any) -> None:
        path = _path(
            qt.QFileDialog.getSaveFileName(
                slicer.util.mainWindow(), _("Save the learned task"), "", FILES
            )
        )
        if not path:
            return
        file = task_file(path)
        # The dialog has asked about the name as it was typed.
        if (
            file != Path(path)
            and file.exists()
            and not slicer.util.confirmOkCancelDisplay(
                _("{path} exists already. Replace it?").format(path=file)
            )
        ):
            return
        try:
            written = self._controller.save_task(path)
        except OFLSAM2Error as error:
            self._say(str(error))
            return
        self._parameters.learnedTaskPath = str(written)
        self._say(_("Saved as {path}.").format(path=written))

    def _on_forget(self, *_args: Any) -> None:
        self._controller.forget_task()
        self._parameters.useLearnedTask = False
        self._parameters.learnedTaskPath = ""
        self.show_learned()
        self._changed()

    def _on_command(self, *_args: Any) -> None:
        qt.QSettings().setValue(COMMAND_SETTING, self.worker_command)
        self.use_worker()

    def _say(self, text: str) -> None:
        self._ui.learnedTaskLabel.text = text


def in_words(learned: Learned | None) -> str:
    if learned is None:
        return _("Nothing is learned yet.")
    names = ", ".join(structure.name for structure in learned.structures)
    size = len(learned.content) / 1e6
    told = _("Learned: {names} (model {backbone}, {size:.1f} MB).").format(
        names=names, backbone=learned.backbone, size=size
    )
    if learned.volume_count > 1:
        told += " " + _("It wants {count} volumes of each patient.").format(
            count=learned.volume_count
        )
    return told


def _path(answer: Any) -> str:
    """PythonQt gives the path; other bindings a pair of path and filter."""
    return str(answer[0] if isinstance(answer, tuple) else answer)
