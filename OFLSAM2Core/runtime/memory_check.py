"""Too little memory is found out before the work starts, not by the system in the middle of it."""

from __future__ import annotations

import psutil

from OFLSAM2Core.errors import ResourceError


def check_memory(needed_bytes: float, what: str, remedy: str) -> None:
    """Raises ResourceError where less is free than `what` needs."""
    available = psutil.virtual_memory().available
    if available < needed_bytes:
        raise ResourceError(
            f"{what} needs about {needed_bytes / 1e9:.1f} GB of memory; "
            f"{available / 1e9:.1f} GB are free.",
            remedy,
        )
