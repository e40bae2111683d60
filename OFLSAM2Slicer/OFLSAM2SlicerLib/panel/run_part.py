"""Part 3: Segment, which becomes Cancel; how far it is; what happened."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from OFLSAM2Core.app.states import State, Status
from OFLSAM2SlicerLib.further_volumes import PART

TITLES = {
    "inputs": "Volume and support cases",
    "further": PART,
    "model": "Model",
    "review": "Review",
    "task": "Learned task",
    "cohort": "Cohort",
    "advanced": "Advanced",
}
"""As messages name the parts of the panel; the panel may show them translated."""


class RunPart:
    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._last_message = ""

    def show(self, status: Status, why_not: str, can_undo: bool) -> None:
        """why_not: why a run cannot start now; it comes below the message of the last one."""
        ui = self._ui
        running = status.is_running
        ui.segmentButton.text = _("Cancel") if running else _("Segment")
        ui.segmentButton.enabled = not status.stopping if running else not why_not
        ui.segmentButton.toolTip = (
            _("Stop. Slices that have arrived are kept.")
            if running
            else why_not or _("Learn from the support cases and segment the volume.")
        )
        ui.undoButton.enabled = can_undo
        ui.stageLabel.text = stage_in_words(status)
        ui.timeLabel.text = time_in_words(status.seconds_left)
        bar = ui.progressBar
        # A maximum of 0 makes the bar move to and fro: busy, and nobody knows for how long.
        bar.maximum = status.total if running else 100
        bar.value = status.done if running else (100 if status.state is State.DONE else 0)
        message = self._message(status, why_not)
        if message != self._last_message:
            self._last_message = message
            ui.messageLabel.text = message
            self._unfold(message)

    def say(self, message: str) -> None:
        """Something that is not of a run's status, until that changes."""
        self._ui.messageLabel.text = message
        self._unfold(message)

    def _unfold(self, message: str) -> None:
        """What a message sends the user to is to be seen."""
        for part in TITLES:
            button = getattr(self._ui, f"{part}CollapsibleButton")
            if f"part {button.text}" in message or f"part {TITLES[part]}" in message:
                button.collapsed = False

    def _message(self, status: Status, why_not: str) -> str:
        parts = [status.text] if status.text else []
        if status.state is State.FAILED and status.log:
            parts.append(_("Last lines of the log:") + "\n" + "\n".join(status.log[-5:]))
        parts += list(status.notes)
        if not status.is_running and why_not:
            parts.append(why_not)
        return "\n".join(parts)


def stage_in_words(status: Status) -> str:
    if not status.is_running:
        return ""
    words = status.stage
    if status.total and status.state is not State.CHECKING:
        words += f"  {status.done} / {status.total}"
    if status.slices_done and status.slices_done != status.done:
        words += _(", {count} slices in place").format(count=status.slices_done)
    return words


def time_in_words(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return _("about {s} s left").format(s=max(1, round(seconds)))
    return _("about {m} min left").format(m=round(seconds / 60))
