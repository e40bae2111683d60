"""How the tests start a worker."""

from __future__ import annotations

import sys
from pathlib import Path

from OFLSAM2Core.runtime.python_command import python_command

PRODUCT = python_command("OFLSAM2Core.worker")
HOOKS = [sys.executable, str(Path(__file__).with_name("worker_with_hooks.py"))]
