"""What a worker says of itself: versions, devices, backbones, methods."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import platform
import sys
from typing import Any

from OFLSAM2Core import __version__
from OFLSAM2Core.worker.protocol import PROTOCOL_VERSION

NEEDED = ("torch", "SimpleITK", "scipy", "safetensors", "platformdirs", "filelock", "psutil")


def about_worker() -> dict[str, Any]:
    """The fields of a "ready" event.

    torch: the installed version, or None. missing: packages without which no job can run.
    Each of `devices` has name, description, free_bytes, total_bytes. `backbones` are those of the
    manifest, each with the state of its weights on this machine. `methods` are as
    `OFLSAM2Core.methods.base.describe` gives them.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return {
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "missing": missing,
        "devices": [] if missing else _devices(),
        "backbones": [] if missing else _backbones(),
        "methods": [] if missing else _methods(),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    # PyTorch takes 2 s to import, and `ready` is waited for. Without a GPU it need not be asked.
    if _may_have_gpu():
        from OFLSAM2Core.runtime.device import describe_devices

        return [device.to_json() for device in describe_devices()]
    import psutil

    memory = psutil.virtual_memory()
    return [
        {
            "name": "cpu",
            "description": f"CPU, {psutil.cpu_count()} threads",
            "free_bytes": memory.available,
            "total_bytes": memory.total,
        }
    ]


def _may_have_gpu() -> bool:
    """Whether there is an NVIDIA driver, or Apple silicon."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _backbones() -> list[dict[str, Any]]:
    from OFLSAM2Core.backbones import weights

    found = []
    for info in weights.list_backbones():
        state = weights.status(info.name)
        found.append({**info.to_json(), "state": state.state, "place": state.place})
    return found


def _methods() -> list[dict[str, Any]]:
    from OFLSAM2Core import methods

    return methods.describe_all()
