"""Too little memory is found out before the work starts, not by the system in the middle of it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from OFLSAM2Core.errors import ResourceError

_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60  # What cgroups say where there is none, and more.


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, of its container or job, and of its
    own limit (`ulimit -v`), whichever is least."""
    found = [psutil.virtual_memory().available]
    if sys.platform == "linux":
        found += [_of_cgroup(folder) for folder in _own_cgroups()]
    if sys.platform != "win32":
        found.append(_of_own_limit())
    return max(0, min(found))


def require_memory(needed_bytes: float, what: str, remedy: str) -> None:
    """Raises ResourceError where less is free than `what` needs."""
    available = available_memory()
    if available < needed_bytes:
        raise ResourceError(
            f"{what} needs about {_size(needed_bytes)} of memory; {_size(available)} are free.",
            remedy,
        )


check_memory = require_memory


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def _own_cgroups() -> list[Path]:
    """The folders of this process's control groups and those above, with their limits."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        own = root / path.lstrip("/")
        # In a container the path may be that of the host, and the limits lie at the root.
        folders += [own, *(above for above in own.parents if above.is_relative_to(root)), root]
    return list(dict.fromkeys(folders))


def _of_cgroup(folder: Path) -> int:
    for limit, usage, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((folder / limit).read_text().strip())
            used = int((folder / usage).read_text().strip())
        except (OSError, ValueError):  # Not there, or "max".
            continue
        if most < _NO_LIMIT:
            return most - used + _cached(folder, cached)
    return _NO_LIMIT


def _cached(folder: Path, name: str) -> int:
    """Files kept in memory, which the system gives up when it needs their room."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _of_own_limit() -> int:
    import resource

    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most in (resource.RLIM_INFINITY, -1):
        return _NO_LIMIT
    return most - psutil.Process().memory_info().vms
