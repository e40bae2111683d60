"""Keys of the panel, which hold in the whole window while the module is open, and only then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import qt


class Shortcuts:
    """slots: what is called, by key ("Ctrl+Return", "N"). Texts can be typed as ever: a field that
    takes text gets its keys first."""

    def __init__(self, window: Any, slots: Mapping[str, Callable[[], None]]) -> None:
        self._shortcuts = []
        for key, slot in slots.items():
            shortcut = qt.QShortcut(qt.QKeySequence(key), window)
            shortcut.connect("activated()", slot)
            shortcut.setEnabled(False)
            self._shortcuts.append(shortcut)

    def enable(self, enabled: bool) -> None:
        for shortcut in self._shortcuts:
            shortcut.setEnabled(enabled)

    def remove(self) -> None:
        """The window outlives the panel."""
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts.clear()
