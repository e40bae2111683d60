"""What a figure was measured on, and how much memory it took."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

import psutil


def peak_memory_mb() -> float:
    """The most memory (MB, resident) that this process has held since it started."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def describe_machine() -> dict[str, Any]:
    """For reports: processor cores, system, versions."""
    import torch

    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
