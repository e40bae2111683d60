"""What a run needs and is not there: listed in one question, then installed and downloaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer
from slicer.i18n import tr as _

from OFLSAM2Core.backbones.manifest import backbone_info
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2SlicerLib.installer import Installer, Missing
from OFLSAM2SlicerLib.panel.model_part import ModelPart
from OFLSAM2SlicerLib.worker_command import WorkerCommand


class SetupPart:
    """Nothing is installed or downloaded before the user agrees; there is one question.

    worker: the command of the worker. Only into Slicer's own Python is anything installed.
    """

    def __init__(
        self,
        ui: Any,
        installer: Installer,
        model: ModelPart,
        worker: Callable[[], WorkerCommand],
        say: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._installer = installer
        self._model = model
        self._worker = worker
        self._say_of_run = say
        ui.installButton.connect("clicked(bool)", self._on_install)

    def prepare(self, backbone: str, then: Callable[[], None], needs: str = "") -> bool:
        """Get what a run with this model needs ("": none); `then` is called once all is there.

        needs: what a run has just failed for want of (`Status.needs`).
        Returns whether there is anything to get; then the user has been asked, and `then` may
        never be called.
        """
        packages = self._packages()
        weights = unknown = False
        if backbone:
            unknown = bool(packages) and not self._model.has_weights(backbone)
            weights = needs == "weights" or unknown or self._model.lacks_weights(backbone)
        if not packages and not weights:
            return False
        if self._model.is_downloading:
            self._say(_("The model is being downloaded."))
            return True
        problem = self._installer.problem() if packages else ""
        if problem:
            self._say(problem)
            return True
        question = question_in_words(
            packages, backbone if weights else "", self._installer.needs_restart(), unknown
        )
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("OFL-SAM2: install")):
            self._say(_("Nothing was installed."))
            return True
        if weights:
            self._model.accept_terms(backbone)  # they stand in the question
        if packages and not self._install():
            return True
        if weights:
            self._model.download(backbone, then)
        else:
            then()
        return True

    def _packages(self) -> list[Missing]:
        return self._installer.missing() if self._worker().uses_slicer_python else []

    def _install(self) -> bool:
        """Whether all is installed now."""
        restart = self._installer.needs_restart()
        try:
            self._say(self._installer.install())
        except OFLSAM2Error as error:
            self._say(str(error))
            return False
        except Exception as error:
            self._say(_("The installation failed: {error}").format(error=error))
            return False
        return not restart

    def _on_install(self, *_args: Any) -> None:
        if not self._worker().uses_slicer_python:
            self._say(
                _(
                    "The worker is not Slicer's own Python: install the package oflsam2 there, or "
                    "leave the field in the part Advanced empty."
                )
            )
        elif not self._packages():
            self._say(_("All packages are installed."))
        else:
            self.prepare(self._model.backbone, self._model.check)

    def _say(self, text: str) -> None:
        self._ui.modelLabel.text = text
        self._say_of_run(text)


def question_in_words(
    packages: Sequence[Missing], backbone: str, with_extension: bool, unless_there: bool
) -> str:
    """What is to be installed, and how large it is. backbone: whose weights are downloaded, "" for
    none; unless_there: it is not known yet whether they are on the computer already."""
    lines = [_("Before anything can be segmented, these are needed:"), ""]
    if with_extension:
        lines.append(_("- the Slicer extension PyTorch (Slicer has to be restarted afterwards)"))
    lines += [f"- {one.in_words}" for one in packages]
    if backbone:
        info = backbone_info(backbone)
        size = f"{info.download_bytes / 1e6:.0f} MB"
        line = _("- the model {name}, {size}").format(name=info.name, size=size)
        lines.append(line + (_(", unless it is there already") if unless_there else ""))
    total = sum(one.megabytes for one in packages)
    if packages:
        lines += [
            "",
            _(
                "The packages go into Slicer's own Python and take about {size:.1f} GB of disk "
                "space or more. Slicer does not react meanwhile; this can take several minutes. "
                "What Slicer and other extensions work with is not replaced."
            ).format(size=total / 1000),
        ]
    if backbone and info.terms:
        terms = _("{name}: {terms} Licence: {licence} ({url})")
        lines += [
            "",
            terms.format(
                name=info.name, terms=info.terms, licence=info.license, url=info.license_url
            ),
        ]
    lines += ["", _("Install these now?")]
    return "\n".join(lines)
