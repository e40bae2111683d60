"""How the tests start a worker."""

from __future__ import annotations

import sys
from pathlib import Path

PRODUCT = [sys.executable, "-m", "OFLSAM2Core.worker"]
HOOKS = [sys.executable, str(Path(__file__).with_name("worker_with_hooks.py"))]
