"""`python -m OFLSAM2Core.worker`."""

from __future__ import annotations

from OFLSAM2Core.worker.server import main

main()
