"""Part 2: the model, where it runs, and what has to be installed or downloaded for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from OFLSAM2Core.backbones import DEFAULT_BACKBONE
from OFLSAM2Core.backbones.manifest import backbone_info, list_backbones
from OFLSAM2Core.worker.client import Event
from OFLSAM2SlicerLib.controller import Controller

WEIGHTS_SETTING = "OFLSAM2/Weights/"
ACCEPTED_SETTING = "OFLSAM2/AcceptedTerms/"
STATES = {
    "ready": "ready to use",
    "partial": "partly downloaded",
    "damaged": "damaged: download it again",
    "absent": "not downloaded yet",
}


class ModelPart:
    """Nothing is asked of the worker, downloaded or installed before the user clicks."""

    def __init__(self, ui: Any, controller: Controller) -> None:
        self._ui = ui
        self._controller = controller
        self._parameters: Any = None
        self._states: dict[str, str] = {}
        self._before_run: str | None = None
        self._download = 0
        self._downloading = ""
        self._began = 0.0
        self._then: Callable[[], None] | None = None
        self._is_filling = False
        for info in list_backbones():
            size = _megabytes(info.download_bytes)
            ui.backboneComboBox.addItem(f"{info.name}  ({size}, {info.license})", info.name)
        ui.deviceComboBox.addItem(_("Auto"), "auto")
        ui.deviceComboBox.addItem(_("CPU"), "cpu")
        ui.backboneComboBox.connect("currentIndexChanged(int)", self._on_backbone)
        ui.deviceComboBox.connect("currentIndexChanged(int)", self._on_device)
        ui.checkButton.connect("clicked(bool)", self.check)
        ui.downloadButton.connect("clicked(bool)", self._on_download)
        ui.localFileButton.connect("clicked(bool)", self._on_local_file)
        ui.removeFilesButton.connect("clicked(bool)", self._on_remove_files)

    def show(self, parameters: Any) -> None:
        self._parameters = parameters
        if parameters is None:
            return
        self._is_filling = True
        if not _select(self._ui.backboneComboBox, parameters.backbone):
            # A scene of another version may name a model that is none here.
            parameters.backbone = DEFAULT_BACKBONE
            _select(self._ui.backboneComboBox, parameters.backbone)
        if not _select(self._ui.deviceComboBox, parameters.device):
            self._ui.deviceComboBox.addItem(parameters.device, parameters.device)
            _select(self._ui.deviceComboBox, parameters.device)
        self._is_filling = False
        self._describe()

    @property
    def backbone(self) -> str:
        return str(self._parameters.backbone)

    def has_weights(self, backbone: str) -> bool:
        """Whether its weights are known to be there."""
        return bool(self.weights_of(backbone)) or self._states.get(backbone) == "ready"

    def lacks_weights(self, backbone: str) -> bool:
        """Whether its weights are known not to be there."""
        return not self.has_weights(backbone) and backbone in self._states

    @property
    def is_downloading(self) -> bool:
        return bool(self._download)

    @property
    def weights(self) -> str:
        """The local file the user picked for the model, on this computer; "" where none."""
        return self.weights_of(self._parameters.backbone)

    def weights_of(self, backbone: str) -> str:
        """The same of any model: a learned task needs the one it was learned with."""
        return _setting(WEIGHTS_SETTING + backbone)

    def set_running(self, running: bool) -> None:
        """While a run is on, its model is in use: say so instead of failing later."""
        for button in ("checkButton", "installButton", "downloadButton", "removeFilesButton"):
            getattr(self._ui, button).enabled = not running
        if running:
            self._before_run = self._ui.modelLabel.text
            self._say(_("A run is in progress."))
        elif self._before_run is not None:
            self._say(self._before_run)
            self._before_run = None

    def _on_backbone(self, *_args: Any) -> None:
        if self._parameters is not None and not self._is_filling:
            self._parameters.backbone = self._ui.backboneComboBox.currentData
            self._describe()

    def _on_device(self, *_args: Any) -> None:
        if self._parameters is not None and not self._is_filling:
            self._parameters.device = self._ui.deviceComboBox.currentData

    def _describe(self) -> None:
        info = backbone_info(self._parameters.backbone)
        parts = [f"{info.description}."]
        parts.append(_("Licence: {name}.").format(name=info.license))
        if info.terms:
            parts.append(info.terms)
        if self.weights:
            parts.append(_("Local file: {path}.").format(path=self.weights))
        elif info.name in self._states:
            parts.append(_("Weights: {state}.").format(state=STATES[self._states[info.name]]))
        self._ui.backboneLabel.text = " ".join(parts)
        has_file = bool(self.weights)
        self._ui.localFileButton.text = (
            _("Forget local file") if has_file else _("Use local file...")
        )

    def check(self, *_args: Any) -> None:
        """Ask the worker what it has."""
        self._say(_("Starting the worker..."))
        self._controller.about_worker(self._show_about, self._say)

    def _show_about(self, about: dict[str, Any]) -> None:
        if self._parameters is None:  # the scene was closed meanwhile
            return
        missing = about.get("missing") or []
        if missing:
            self._say(_("To be installed: {names}.").format(names=", ".join(missing)))
            return
        self._states = {entry["name"]: entry["state"] for entry in about.get("backbones", [])}
        self._is_filling = True
        box = self._ui.deviceComboBox
        box.clear()
        box.addItem(_("Auto"), "auto")
        for device in about.get("devices", []):
            free = device.get("free_bytes", 0) / 2**30
            text = f"{device['name']}: {device.get('description', '')}, {free:.1f} GB free"
            box.addItem(text, device["name"])
        _select(box, self._parameters.device)
        self._is_filling = False
        self._describe()
        self._say(
            _("Python {python}, PyTorch {torch}.").format(
                python=about.get("python"), torch=about.get("torch")
            )
        )

    def _on_download(self, *_args: Any) -> None:
        if self._download:
            self._controller.cancel_request(self._download)
        elif self._accepts_terms(backbone_info(self.backbone)):
            self.download(self.backbone)

    def accept_terms(self, backbone: str) -> None:
        """The user has agreed to them."""
        if backbone_info(backbone).terms:
            qt.QSettings().setValue(ACCEPTED_SETTING + backbone, "yes")

    def download(self, backbone: str, then: Callable[[], None] | None = None) -> None:
        """Download and check the weights of a model; `then` is called once they are there."""
        self._began, self._downloading, self._then = time.monotonic(), backbone, then
        self._download = self._controller.fetch_weights(
            backbone, self._on_download_event, self._on_download_failed
        )
        if self._download:
            self._ui.downloadButton.text = _("Stop the download")
            self._ui.modelProgressBar.visible = True
            self._ui.modelCollapsibleButton.collapsed = False
            self._say(_("Downloading {name}...").format(name=backbone))

    def _accepts_terms(self, info: Any) -> bool:
        """Weights with terms of use are downloaded only after the user has agreed to them."""
        if not info.terms or _setting(ACCEPTED_SETTING + info.name):
            return True
        agreed = slicer.util.confirmOkCancelDisplay(
            _("{name}: {terms}\n\nLicence: {licence} ({url})\n\nDo you agree?").format(
                name=info.name, terms=info.terms, licence=info.license, url=info.license_url
            ),
            windowTitle=_("Terms of use"),
        )
        if agreed:
            self.accept_terms(info.name)
        return bool(agreed)

    def _on_download_event(self, event: Event) -> None:
        if event.name == "progress":
            done, total = event.header.get("done", 0), event.header.get("total", 0)
            bar = self._ui.modelProgressBar
            bar.maximum = 100
            bar.value = round(100 * done / total) if total else 0
            self._say(str(event.header.get("message") or _("Downloading...")))
        elif event.name == "done":
            seconds = time.monotonic() - self._began
            self._states[self._downloading] = "ready"
            then, self._then = self._then, None
            self._download_is_over(_("Downloaded and checked in {s:.0f} s.").format(s=seconds))
            if self._parameters is not None:
                self._describe()
                if then is not None:
                    then()

    def _on_download_failed(self, message: str) -> None:
        self._download_is_over(message)

    def _download_is_over(self, message: str) -> None:
        self._download, self._then = 0, None
        self._ui.downloadButton.text = _("Download model")
        self._ui.modelProgressBar.visible = False
        self._say(message)

    def _on_local_file(self, *_args: Any) -> None:
        setting = WEIGHTS_SETTING + self._parameters.backbone
        if self.weights:
            qt.QSettings().remove(setting)
        else:
            path = qt.QFileDialog.getOpenFileName(
                slicer.util.mainWindow(),
                _("Weights of {name}").format(name=self._parameters.backbone),
                "",
            )
            path = path[0] if isinstance(path, tuple) else path
            if path:
                qt.QSettings().setValue(setting, path)
        self._describe()

    def _on_remove_files(self, *_args: Any) -> None:
        name = self._parameters.backbone
        if not slicer.util.confirmOkCancelDisplay(
            _("Delete the downloaded weights of {name}?").format(name=name)
        ):
            return
        self._controller.remove_weights(
            name, lambda answer: self._on_removed(name, answer), self._say
        )

    def _on_removed(self, name: str, answer: dict[str, Any]) -> None:
        self._states.pop(name, None)
        if self._parameters is not None:
            self._describe()
        freed = _megabytes(int(answer.get("freed_bytes", 0)))
        self._say(_("{size} of disk space freed.").format(size=freed))

    def _say(self, text: str) -> None:
        self._ui.modelLabel.text = text


def _select(box: Any, data: str) -> bool:
    position = box.findData(data)
    if position >= 0:
        box.setCurrentIndex(position)
    return bool(position >= 0)


def _setting(key: str) -> str:
    value = qt.QSettings().value(key)
    return str(value) if value else ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
