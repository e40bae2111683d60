"""The Python packages the worker needs, in Slicer's own Python. Only when the user asks.

PyTorch comes through the PyTorch extension, which picks the build for the computer's GPU. The
others come through `slicer.packaging` (Slicer 5.12), or `slicer.util.pip_install` before it.
Always on the main thread: pip from another thread has deadlocked and crashed Slicer 5.12.

What Slicer and other extensions work with is never replaced: pip is held to the versions of
`KEPT` that are installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

from OFLSAM2Core.errors import ResourceError

TORCH = ">=2.4.1"
TORCHVISION = ">=0.19.1"  # what rf-sam-2 asks for; it is the one made for torch 2.4.1
REQUESTER = "OFLSAM2"

KEPT = ("torch", "torchvision", "torchaudio", "numpy", "scipy", "SimpleITK")

MEGABYTES = {
    "torch": 750,
    "torchvision": 16,
    "SimpleITK": 260,
    "openvino": 180,
    "scipy": 140,
    "numpy": 70,
    "pillow": 25,
    "monai": 16,
}
"""Room on the disk, measured on Linux; what is not listed takes less than 10 MB."""

OTHER_PYTHON = (
    "Use another Python as worker: install the package oflsam2 there, and pick it in the part "
    "Advanced."
)


@dataclass(frozen=True)
class Missing:
    """A package to be installed. requirement: with its version, as pip takes it."""

    name: str
    requirement: str

    @property
    def in_words(self) -> str:
        if self.name == "torch":
            return "PyTorch, 750 MB (up to 5 GB with an NVIDIA GPU)"
        size = MEGABYTES.get(self.name)
        return f"{self.name}, {size} MB" if size else self.name

    @property
    def megabytes(self) -> int:
        return MEGABYTES.get(self.name, 5)


@dataclass(frozen=True)
class Computer:
    """What decides on packages. Another one is given by tests."""

    system: str = sys.platform
    machine: str = platform.machine()

    @property
    def is_intel_mac(self) -> bool:
        return self.system == "darwin" and self.machine == "x86_64"


def installed_version(name: str) -> str | None:
    """The version of a package that is installed, None where it is not; nothing is imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class Installer:
    """requirements_file: one requirement a line, without torch."""

    def __init__(
        self,
        requirements_file: str | Path,
        computer: Computer | None = None,
        version_of: Callable[[str], str | None] | None = None,
    ) -> None:
        self._file = Path(requirements_file)
        self._computer = computer or Computer()
        self._version_of = version_of or installed_version

    def missing(self) -> list[Missing]:
        """Packages that are not installed, or too old."""
        needed = [f"torch{TORCH}", f"torchvision{TORCHVISION}", *self.requirements()]
        return [Missing(_name(line), line) for line in needed if not self._is_there(line)]

    def requirements(self) -> list[str]:
        """The lines that hold for this computer."""
        lines = [line.split("#")[0].strip() for line in self._file.read_text().splitlines()]
        return [line for line in lines if line and self._applies(line)]

    def problem(self) -> str:
        """Why nothing can be installed here, and what to do instead; "" where it can."""
        if self._computer.is_intel_mac:
            return (
                "Slicer for macOS is a program for Intel processors, for which there is no "
                f"PyTorch any more that could be used. {OTHER_PYTHON}"
            )
        for one in self.missing():
            version = self._version_of(one.name)
            if version is not None and one.name in KEPT:
                return (
                    f"{one.name} {version} is installed, and {one.requirement} is needed. It is "
                    "not replaced, because Slicer or another extension may need it as it is: "
                    f"update it yourself, or leave it. {OTHER_PYTHON}"
                )
        return ""

    def needs_restart(self) -> bool:
        """Whether the PyTorch extension has to be installed first, and Slicer started again."""
        return any(one.name == "torch" for one in self.missing()) and _torch_utils() is None

    def install(self) -> str:
        """Install what is missing; returns a message for the user. Whoever calls has asked the
        user.

        Raises ResourceError where something could not be installed.
        """
        problem = self.problem()
        if problem:
            raise ResourceError("Nothing was installed.", problem)
        if self.needs_restart():
            _install_torch_extension()
            return "The extension PyTorch is installed. Restart Slicer, then press Segment again."
        if any(one.name in ("torch", "torchvision") for one in self.missing()):
            self._install_torch()
        others = [one.requirement for one in self.missing()]
        if others:
            self._install_others(others)
        importlib.invalidate_caches()
        missing = self.missing()
        if missing:
            raise ResourceError(
                f"Could not be installed: {', '.join(one.name for one in missing)}.",
                "Look for the reason in the application log (Help menu, Report a Bug).",
            )
        return "All packages are installed."

    def _install_torch(self) -> None:
        """PyTorch with its torchvision; where PyTorch is there, only the torchvision for it."""
        version = self._version_of("torch")
        wanted = TORCH if version is None else f"=={version.partition('+')[0]}"
        installed = _torch_utils().installTorch(
            askConfirmation=False,
            torchVersionRequirement=wanted,
            torchvisionVersionRequirement=TORCHVISION,
        )
        if installed is None:
            raise ResourceError(
                "PyTorch could not be installed.",
                "Try it in the module PyTorch Util, which says more.",
            )

    def _install_others(self, requirements: list[str]) -> None:
        packaging = _slicer_packaging()
        with self._constraints() as path:
            try:
                if packaging is not None:
                    packaging.pip_install(requirements, constraints=path, requester=REQUESTER)
                else:
                    slicer.util.pip_install([*requirements, "-c", path])
            except subprocess.CalledProcessError as error:
                raise ResourceError(
                    f"pip could not install {', '.join(_name(line) for line in requirements)}.",
                    "Without a network, or behind a proxy, see the tutorial. The application log "
                    f"(Help menu, Report a Bug) has pip's reason. {OTHER_PYTHON}",
                ) from error

    @contextmanager
    def _constraints(self) -> Iterator[str]:
        """A file that holds pip to what is installed of `KEPT`."""
        versions = {name: self._version_of(name) for name in KEPT}
        lines = [f"{name}=={version}\n" for name, version in versions.items() if version]
        handle, path = tempfile.mkstemp(prefix="oflsam2-constraints-", suffix=".txt")
        try:
            with os.fdopen(handle, "w") as file:
                file.writelines(lines)
            yield path
        finally:
            os.unlink(path)

    def _is_there(self, line: str) -> bool:
        from packaging.requirements import Requirement

        requirement = Requirement(line)
        version = self._version_of(requirement.name)
        return version is not None and requirement.specifier.contains(version, prereleases=True)

    def _applies(self, line: str) -> bool:
        """Whether the marker after ";" holds on this computer."""
        from packaging.requirements import Requirement

        marker = Requirement(line).marker
        here = {
            "sys_platform": self._computer.system,
            "platform_machine": self._computer.machine,
        }
        return marker is None or bool(marker.evaluate(here))


def _torch_utils() -> Any:
    """The logic of the PyTorch extension, None where it is not installed."""
    try:
        return importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    except ModuleNotFoundError:
        return None


def _install_torch_extension() -> None:
    """Without further questions: the user has been asked, and decides when to restart."""
    manager = slicer.app.extensionsManagerModel()
    was_interactive = manager.interactive
    manager.interactive = False
    try:
        done = manager.isExtensionInstalled("PyTorch") or manager.installExtensionFromServer(
            "PyTorch", False
        )
    finally:
        manager.interactive = was_interactive
    if not done:
        raise ResourceError(
            "The extension PyTorch could not be installed.",
            "Install it in the Extensions Manager, restart Slicer, and press Segment again.",
        )


def _slicer_packaging() -> Any:
    try:
        return importlib.import_module("slicer.packaging")
    except ImportError:
        return None


def _name(line: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(line).name
