"""The method, and the part Advanced: made from what the method says of its options."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import qt
from slicer.i18n import tr as _

from OFLSAM2Core.methods.options import OptionInfo
from OFLSAM2SlicerLib.method_options import DEFAULT_PRESET, MethodInfo, described_methods

NO_LIMIT = 1_000_000


class OptionsPart:
    """Keeps only what the user changed, in the parameter node.

    changed: called when the method or an option was changed.
    """

    def __init__(self, ui: Any, changed: Callable[[], None]) -> None:
        self._ui = ui
        self._changed = changed
        self._parameters: Any = None
        self._methods = {one.name: one for one in described_methods()}
        self._made_for = ""
        self._form: Any = None
        self._editors: dict[str, tuple[OptionInfo, Any, Any]] = {}
        self._is_filling = False
        self._layout = qt.QVBoxLayout(ui.optionsWidget)
        self._layout.setContentsMargins(0, 0, 0, 0)
        for name, one in self._methods.items():
            ui.methodComboBox.addItem(name, name)
            ui.methodComboBox.setItemData(ui.methodComboBox.count - 1, one.description, 3)
        ui.methodComboBox.connect("currentIndexChanged(int)", self._on_method)
        ui.resetOptionsButton.connect("clicked(bool)", self._on_reset)

    def show(self, parameters: Any) -> None:
        """Show what a parameter node says, also when it was changed elsewhere."""
        self._parameters = parameters
        if parameters is None:
            return
        self._is_filling = True
        method = self.method
        box = self._ui.methodComboBox
        box.setCurrentIndex(box.findData(method.name))
        self._ui.optionsLabel.text = f"{method.name}: {method.description}."
        self._make_form(method)
        changed = self._changes()
        for option, label, editor in self._editors.values():
            _write(editor, option, method.value(option, parameters.preset, changed))
            settled = parameters.useLearnedTask and option.name in method.for_learning
            editor.enabled = label.enabled = not settled
            is_changed = option.name in changed
            label.setStyleSheet("font-weight: bold" if is_changed else "")
        self._ui.resetOptionsButton.enabled = bool(changed)
        self._is_filling = False

    @property
    def method(self) -> MethodInfo:
        """The one that is chosen; the first where a scene names one that is not there."""
        return self._methods.get(self._parameters.method) or next(iter(self._methods.values()))

    def options(self) -> dict[str, Any]:
        """What the user changed, by name, "preset" among them."""
        preset = self._parameters.preset
        chosen = {} if preset == DEFAULT_PRESET else {"preset": preset}
        return {**chosen, **self._changes()}

    def _changes(self) -> dict[str, Any]:
        known = {option.name for option in self.method.options}
        stored = self._stored().get(self.method.name, {})
        return {name: value for name, value in stored.items() if name in known}

    def _stored(self) -> dict[str, dict[str, Any]]:
        try:
            stored = json.loads(self._parameters.changedOptions or "{}")
        except ValueError:
            return {}
        return stored if isinstance(stored, dict) else {}

    def _store(self, changes: dict[str, Any]) -> None:
        stored = {**self._stored(), self.method.name: changes}
        stored = {name: values for name, values in stored.items() if values}
        self._parameters.changedOptions = json.dumps(stored, sort_keys=True) if stored else ""
        self.show(self._parameters)
        self._changed()

    def _make_form(self, method: MethodInfo) -> None:
        if self._made_for == method.name:
            return
        if self._form is not None:
            self._form.setParent(None)
            self._form.deleteLater()
        self._made_for, self._editors = method.name, {}
        self._form = qt.QWidget()
        layout = qt.QFormLayout(self._form)
        layout.setContentsMargins(0, 0, 0, 0)
        for option in method.options:
            label = qt.QLabel(option.name.replace("_", " ") + ":")
            editor = _editor(option, partial(self._on_edited, option.name))
            editor.setObjectName(f"option_{option.name}")
            label.toolTip = editor.toolTip = _tip(option)
            layout.addRow(label, editor)
            self._editors[option.name] = (option, label, editor)
        self._layout.addWidget(self._form)

    def _on_edited(self, name: str) -> None:
        if self._is_filling or self._parameters is None:
            return
        option, _label, editor = self._editors[name]
        value, changes = _read(editor, option), self._changes()
        changes.pop(name, None)
        if value != self.method.preset_value(option, self._parameters.preset):
            changes[name] = value
        self._store(changes)

    def _on_method(self, *_args: Any) -> None:
        if self._parameters is not None and not self._is_filling:
            self._parameters.method = self._ui.methodComboBox.currentData
            self.show(self._parameters)
            self._changed()

    def _on_reset(self, *_args: Any) -> None:
        if self._parameters is not None:
            self._store({})


def _editor(option: OptionInfo, edited: Callable[[], None]) -> Any:
    """A widget for an option. Numbers are taken when typing is over, not at every digit."""
    if option.type == "bool":
        box = qt.QCheckBox()
        box.connect("toggled(bool)", lambda *_args: edited())
        return box
    if option.choices:
        box = qt.QComboBox()
        for choice in option.choices:
            box.addItem(str(choice), choice)
        box.connect("currentIndexChanged(int)", lambda *_args: edited())
        return box
    if option.type in ("int", "float"):
        box = qt.QSpinBox() if option.type == "int" else qt.QDoubleSpinBox()
        low = -NO_LIMIT if option.low is None else option.low
        high = NO_LIMIT if option.high is None else option.high
        if option.type == "int":
            box.setRange(int(low), int(high))
            box.connect("valueChanged(int)", lambda *_args: edited())
        else:
            small = 0 < abs(option.default) < 0.01
            box.setDecimals(6 if small else 3)
            box.setSingleStep(option.default / 10 if small else 0.05)
            box.setRange(low, high)
            box.connect("valueChanged(double)", lambda *_args: edited())
        box.setKeyboardTracking(False)
        return box
    line = qt.QLineEdit()
    line.connect("editingFinished()", lambda *_args: edited())
    return line


def _write(editor: Any, option: OptionInfo, value: Any) -> None:
    if option.type == "bool":
        editor.setChecked(bool(value))
    elif option.choices:
        editor.setCurrentIndex(editor.findData(value))
    elif option.type == "int":
        editor.setValue(int(value))
    elif option.type == "float":
        editor.setValue(float(value))
    else:
        editor.setText(str(value))


def _read(editor: Any, option: OptionInfo) -> Any:
    if option.type == "bool":
        return bool(editor.checked)
    if option.choices:
        return editor.currentData
    if option.type == "int":
        return int(editor.value)
    if option.type == "float":
        return round(float(editor.value), 6)
    return str(editor.text).strip()


def _tip(option: OptionInfo) -> str:
    parts = [option.help[:1].upper() + option.help[1:]] if option.help else []
    if option.low is not None and option.high is not None:
        parts.append(_("From {low:g} to {high:g}.").format(low=option.low, high=option.high))
    return " ".join(parts)
