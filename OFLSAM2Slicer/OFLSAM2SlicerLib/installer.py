"""The Python packages the worker needs, in Slicer's own Python. Only when the user asks.

PyTorch comes through the PyTorch extension, which picks the build for the computer's GPU. The
others come through `slicer.packaging` (Slicer 5.12), or `slicer.util.pip_install` before it.
Always on the main thread: pip from another thread has deadlocked and crashed Slicer 5.12.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from OFLSAM2Core.errors import ResourceError

TORCH = ">=2.2"
TORCH_ON_INTEL_MAC = ">=2.2,<2.3"  # Slicer for macOS is x86_64; there 2.2 is the newest
REQUESTER = "OFLSAM2"

Confirm = Callable[[str], bool]


class Installer:
    """requirements_file: one requirement a line, without torch.

    confirm: asks the user.
    """

    def __init__(self, requirements_file: str | Path, confirm: Confirm) -> None:
        self._file = Path(requirements_file)
        self._confirm = confirm

    def missing(self) -> list[str]:
        """Names of packages that are not installed; nothing is imported."""
        names = ["torch", *(_name(line) for line in self.requirements())]
        return [name for name in names if not _is_installed(name)]

    def requirements(self) -> list[str]:
        """The lines that hold for this computer."""
        lines = [line.split("#")[0].strip() for line in self._file.read_text().splitlines()]
        return [line for line in lines if line and _applies(line)]

    def install(self) -> str:
        """Install what is missing, after asking; returns what is to be said.

        Raises ResourceError where something could not be installed.
        """
        missing = self.missing()
        if not missing:
            return "All packages are installed."
        if not self._confirm(
            f"These Python packages will be installed into Slicer: {', '.join(missing)}.\n\n"
            "PyTorch alone takes 1 to 3 GB of disk space. Slicer does not react meanwhile; this "
            "can take several minutes."
        ):
            return "Nothing was installed."
        if "torch" in missing:
            restart = self._install_torch()
            if restart:
                return restart
        self._install_others()
        missing = self.missing()
        if missing:
            raise ResourceError(
                f"Could not be installed: {', '.join(missing)}.",
                "Look for the reason in the application log (Help menu, Report a Bug).",
            )
        return "All packages are installed."

    def _install_torch(self) -> str:
        """Returns "" or why Slicer has to be started again first."""
        try:
            import PyTorchUtils  # of the PyTorch extension
        except ModuleNotFoundError:
            return self._install_torch_extension()
        logic = PyTorchUtils.PyTorchUtilsLogic()
        version = TORCH_ON_INTEL_MAC if _is_intel_mac() else TORCH
        if logic.installTorch(askConfirmation=False, torchVersionRequirement=version) is None:
            raise ResourceError(
                "PyTorch could not be installed.",
                "Try it in the module PyTorch Util, which says more.",
            )
        return ""

    def _install_torch_extension(self) -> str:
        if not self._confirm(
            "The extension PyTorch is needed first. Install it now? Slicer has to be restarted "
            "afterwards."
        ):
            return "Nothing was installed: the extension PyTorch is needed."
        manager = slicer.app.extensionsManagerModel()
        if not manager.isExtensionInstalled("PyTorch") and not (
            manager.installExtensionFromServer("PyTorch")
        ):
            raise ResourceError(
                "The extension PyTorch could not be installed.",
                "Install it in the Extensions Manager, restart Slicer, and press Install again.",
            )
        return "The extension PyTorch is installed. Restart Slicer, then press Install again."

    def _install_others(self) -> None:
        requirements = self.requirements()
        packaging: Any = getattr(slicer, "packaging", None) or _slicer_packaging()
        if packaging is not None:
            packaging.pip_ensure(requirements, requester=REQUESTER, prompt_install=False)
        else:
            slicer.util.pip_install(requirements)


def _slicer_packaging() -> Any:
    try:
        return importlib.import_module("slicer.packaging")
    except ImportError:
        return None


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _name(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]


def _applies(requirement: str) -> bool:
    """Whether the marker after ";" holds on this computer."""
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or bool(marker.evaluate())


def _is_intel_mac() -> bool:
    import platform

    return sys.platform == "darwin" and platform.machine() == "x86_64"
