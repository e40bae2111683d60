"""What is installed, through which of Slicer's ways, and what is never replaced."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import slicer
import tomllib
from OFLSAM2SlicerLib.installer import KEPT, Computer, Installer
from packaging.requirements import Requirement
from panels import application  # noqa: F401  (installs the doubles)
from slicer_double import application as double

from OFLSAM2Core.errors import ResourceError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "OFLSAM2Slicer" / "Resources" / "requirements.txt"
LINUX = Computer("linux", "x86_64")
INTEL_MAC = Computer("darwin", "x86_64")
GPU_TORCH = {"torch": "2.6.0+cu124", "torchvision": "0.21.0+cu124"}
SLICERS = {"numpy": "2.0.2", "scipy": "1.14.1", "SimpleITK": "2.5.2", "pillow": "11.1.0"}


class Pip:
    """What is installed, and what pip was asked for; it succeeds, or fails."""

    def __init__(self, versions, succeeds=True):
        self.versions = dict(versions)
        self.succeeds = succeeds
        self.arguments = []
        self.constraints = []

    def __call__(self, module, args, *_more, **_named):
        assert module == "pip"
        self.arguments = list(args)
        path = args[args.index("-c") + 1]
        self.constraints_file = Path(path)
        self.constraints = self.constraints_file.read_text().split()
        if not self.succeeds:
            raise subprocess.CalledProcessError(1, "pip")
        for line in args:
            if line not in ("install", "-c", path):
                name = Requirement(line).name
                self.versions[name] = next(iter(Requirement(line).specifier)).version


@pytest.fixture
def pip(monkeypatch):
    def prepared(versions, succeeds=True):
        pip = Pip(versions, succeeds)
        for name in ("_executePythonModule", "executePythonModule"):
            monkeypatch.setattr(slicer.util, name, pip, raising=False)
        return pip

    return prepared


@pytest.fixture
def torch_extension(monkeypatch):
    """The PyTorch extension; tells what it was asked for."""
    asked = []

    class Logic:
        def installTorch(self, **arguments):
            asked.append(arguments)
            return "torch"

    module = types.SimpleNamespace(PyTorchUtilsLogic=Logic)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    return asked


def test_pip_is_held_to_the_torch_numpy_scipy_and_simpleitk_that_are_there(pip):
    pip = pip({**GPU_TORCH, **SLICERS})
    installer = Installer(FILE, LINUX, pip.versions.get)
    assert installer.install() == "All packages are installed."
    kept = {**GPU_TORCH, **SLICERS}
    assert sorted(pip.constraints) == sorted(f"{n}=={kept[n]}" for n in KEPT if n in kept)
    named = {Requirement(line).name for line in pip.arguments[1:] if line[0] not in "-/"}
    assert named.isdisjoint(KEPT) and "monai" in named


def test_nothing_is_installed_where_nothing_is_missing(pip):
    pip = pip({**GPU_TORCH, **SLICERS})
    installer = Installer(FILE, LINUX, pip.versions.get)
    installer.install()
    pip.arguments = []
    assert installer.missing() == []
    assert installer.install() == "All packages are installed."
    assert pip.arguments == []


def test_torch_comes_through_its_extension_with_the_torchvision_that_is_needed(
    pip, torch_extension
):
    pip = pip(SLICERS)

    def version_of(name):
        if torch_extension and name in GPU_TORCH:
            return GPU_TORCH[name]
        return pip.versions.get(name)

    Installer(FILE, LINUX, version_of).install()
    (asked,) = torch_extension
    assert asked["torchVersionRequirement"] == ">=2.4.1"
    assert asked["torchvisionVersionRequirement"] == ">=0.19.1"
    assert f"torch=={GPU_TORCH['torch']}" in pip.constraints


def test_a_torchvision_is_added_to_the_torch_that_is_there_and_not_another_torch(
    pip, torch_extension
):
    pip = pip({"torch": "2.6.0+cu124", **SLICERS})

    def version_of(name):
        if name == "torchvision" and torch_extension:
            return "0.21.0+cu124"
        return pip.versions.get(name)

    Installer(FILE, LINUX, version_of).install()
    assert torch_extension[0]["torchVersionRequirement"] == "==2.6.0"


def test_slicer_for_macos_is_pointed_to_another_python_before_anything_is_tried(
    pip, torch_extension
):
    pip = pip(SLICERS)
    installer = Installer(FILE, INTEL_MAC, pip.versions.get)
    assert "Intel" in installer.problem() and "another Python" in installer.problem()
    with pytest.raises(ResourceError, match="another Python"):
        installer.install()
    assert pip.arguments == [] and torch_extension == []


def test_a_torch_that_is_too_old_is_reported_and_not_replaced(pip, torch_extension):
    pip = pip({"torch": "2.1.0", "torchvision": "0.16.0", **SLICERS})
    with pytest.raises(ResourceError, match=r"torch 2\.1\.0 is installed.*not replaced"):
        Installer(FILE, LINUX, pip.versions.get).install()
    assert pip.arguments == [] and torch_extension == []


def test_where_pip_fails_the_packages_and_a_way_on_are_reported(pip):
    pip = pip({**GPU_TORCH, **SLICERS}, succeeds=False)
    with pytest.raises(ResourceError, match="pip could not install .*monai.*") as raised:
        Installer(FILE, LINUX, pip.versions.get).install()
    assert "tutorial" in str(raised.value) and "another Python" in str(raised.value)
    assert not pip.constraints_file.exists()


def test_the_pytorch_extension_is_installed_without_a_further_question(pip, monkeypatch):
    pip = pip(SLICERS)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)  # importing it fails
    manager = slicer.app.extensionsManagerModel()
    monkeypatch.setattr(manager, "installed", [])
    double.messages.clear()
    told = Installer(FILE, LINUX, pip.versions.get).install()
    assert double.messages == []
    assert manager.installed == ["PyTorch"] and manager.interactive
    assert "Restart Slicer" in told
    assert pip.arguments == []


def test_an_intel_mac_with_pip_alone_gets_what_exists_for_it():
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    here = {"sys_platform": "darwin", "platform_machine": "x86_64"}
    wanted = [Requirement(line) for line in lines]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate(here)]
    assert "rf-sam-2" not in {one.name for one in wanted}
    numpy = [one.specifier for one in wanted if one.name == "numpy"]
    assert numpy and not all(specifier.contains("2.0.0") for specifier in numpy)
    elsewhere = {"sys_platform": "linux", "platform_machine": "x86_64"}
    wanted = [Requirement(line) for line in lines]
    wanted = [one for one in wanted if one.marker is None or one.marker.evaluate(elsewhere)]
    assert "rf-sam-2" in {one.name for one in wanted}
    assert all(one.specifier.contains("2.0.0") for one in wanted if one.name == "numpy")
