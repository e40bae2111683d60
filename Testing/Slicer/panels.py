"""The real panel on the double of Slicer's Qt, and what a user does with it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import slicer_double
from PySide6 import QtCore, QtTest, QtWidgets

application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
application.setStyle("Fusion")
slicer_double.install()

import slicer  # noqa: E402

import OFLSAM2Slicer as module  # noqa: E402

MODIFIERS = {
    QtCore.Qt.Key_Control: QtCore.Qt.ControlModifier,
    QtCore.Qt.Key_Shift: QtCore.Qt.ShiftModifier,
}
SYNTHETIC = Path(__file__).with_name("synthetic_worker.py")


def synthetic_command(*options: str) -> str:
    return " ".join([sys.executable, str(SYNTHETIC), *options])


class Panel:
    """A user in front of the panel."""

    def __init__(self, worker: str = "") -> None:
        QtCore.QSettings().setValue("OFLSAM2/WorkerCommand", worker)
        parent = slicer.qMRMLWidget()
        parent.setLayout(QtWidgets.QVBoxLayout())
        parent.isEntered = True
        self.widget = module.OFLSAM2SlicerWidget(parent)
        self.widget.setup()
        self.widget.enter()
        self.ui = self.widget.ui
        self.logic = self.widget.logic
        self.controller = self.logic.controller

    @property
    def parameters(self) -> Any:
        return self.widget._parameterNode

    @property
    def status(self) -> Any:
        return self.controller.status

    def choose(self, target: Any, pairs: list[tuple[Any, Any]]) -> None:
        """Pick the target and add each pair with the selectors and the button."""
        self.ui.targetSelector.setCurrentNode(target)
        for volume, labels in pairs:
            self.ui.supportVolumeSelector.setCurrentNode(volume)
            self.ui.supportLabelsSelector.setCurrentNode(labels)
            self.ui.addSupportButton.click()

    def click_support(self, row: int) -> None:
        """Click a row of the support cases."""
        table = self.ui.supportTable
        place = table.visualItemRect(table.item(row, 1)).center()
        QtTest.QTest.mouseClick(table.viewport(), QtCore.Qt.LeftButton, pos=place)

    def press(self, key: Any, held: Any = None) -> None:
        """Press a key in the panel's window, while another is held (Qt.Key_Control, say)."""
        window, modifier = self.widget.parent, QtCore.Qt.NoModifier
        if held is not None:
            modifier = MODIFIERS[held]
            QtTest.QTest.keyPress(window, held, modifier)
        QtTest.QTest.keyClick(window, key, modifier)
        if held is not None:  # until it is released Qt counts it as held, in every test to come
            QtTest.QTest.keyRelease(window, held)

    def option(self, name: str) -> Any:
        """The widget of one of the method's options, in the part Advanced."""
        return self.ui.optionsWidget.findChild(QtWidgets.QWidget, f"option_{name}")

    def wait(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Let the application go on until the condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            application.processEvents()
            time.sleep(0.002)
            if time.monotonic() > end:
                raise TimeoutError(f"{self.status} {self.controller.link.log_lines()[-20:]}")

    def run(self, timeout: float = 60.0) -> Any:
        """Press Segment, and wait until all is done."""
        self.ui.segmentButton.click()
        self.wait(lambda: self.controller.is_idle, timeout)
        application.processEvents()
        return self.status

    def children_of_worker(self) -> list[psutil.Process]:
        """The worker's process and those it started."""
        pid = self.controller.link.pid
        if pid is None or not psutil.pid_exists(pid):
            return []
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]

    def picture(self, path: Path, width: int = 520) -> None:
        """The panel as it stands, as a PNG."""
        parent = self.widget.parent
        parent.show()
        for _ in range(5):
            height = max(parent.layout().heightForWidth(width), parent.minimumSizeHint().height())
            parent.resize(width, height)
            application.processEvents()
        parent.grab().save(str(path))

    def close(self) -> None:
        self.widget.cleanup()
        QtCore.QSettings().remove("OFLSAM2")


__all__ = ["Panel", "application", "module", "slicer", "synthetic_command"]
