"""Dask clusters: one on this computer, or a scheduler that runs somewhere."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from OFLSAM2Core.cohort.dask_workers import CONNECT_S, DaskWorkers
from OFLSAM2Core.errors import InputError, ResourceError

if TYPE_CHECKING:
    from distributed import Worker

_log = logging.getLogger(__name__)

LOCAL_PATIENCE_S = 300.0
"""A worker of this computer starts in seconds, on a busy one in a minute or two."""


def local_workers(
    count: int, cores: int, memory_bytes: int, gpus: Sequence[str] = ()
) -> DaskWorkers:
    """Worker processes of this computer.

    count: how many. cores: shared among them. memory_bytes: for each; one that takes more is ended
    before the system has to choose whom to end. gpus: as CUDA_VISIBLE_DEVICES names them; workers
    get one each, in turn.
    Raises ResourceError where Dask is not installed, or the processes cannot be started.
    """
    need_dask()
    import dask
    from distributed import Client, LocalCluster

    _quieten()
    threads = max(1, cores // count)
    settings = {
        # A worker holds no results; one that is paused for its memory would be waited for forever.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.worker.preload": [__name__],
        "distributed.nanny.pre-spawn-environ": {
            **dict.fromkeys(
                ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
            ),
            "OFLSAM2_COHORT_GPUS": ",".join(gpus),
        },
        # Long calls into PyTorch hold Python's lock; that is no reason to give a worker up.
        "distributed.scheduler.worker-ttl": None,
        "distributed.admin.tick.limit": "1 h",
        # A worker that comes back later than that is sent away: on a busy computer or a slow disk
        # importing PyTorch alone takes longer than the usual 15 s.
        "distributed.deploy.lost-worker-timeout": "1 h",
    }
    # For good: some are asked for when a worker is lost.
    dask.config.set(settings)
    try:
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=memory_bytes,
            host="127.0.0.1",
            # Others on this computer must not be able to send work: it runs as its user.
            security=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster, timeout=60)
    except Exception as error:
        raise ResourceError(
            f"Worker processes could not be started: {error}.",
            "Use --workers 0, which works in this process alone.",
        ) from error
    return DaskWorkers(client, LOCAL_PATIENCE_S, _log.info, cluster=cluster)


def scheduler_workers(
    address: str, patience_s: float, on_wait: Callable[[str], None]
) -> DaskWorkers:
    """The workers of a scheduler that runs: its address ("tcp://host:8786"), or the path of the
    file that it was started with (`--scheduler-file`).

    Raises ResourceError where Dask is not installed or the scheduler does not answer, InputError
    where the address is none.
    """
    need_dask()
    from distributed import Client

    _quieten()
    file = Path(address)
    try:
        if file.is_file():
            client = Client(scheduler_file=str(file), timeout=CONNECT_S)
        else:
            client = Client(address, timeout=CONNECT_S)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{address}' is no address of a Dask scheduler: {error}.",
            "Write --scheduler tcp://HOST:8786, or the path of its scheduler file.",
        ) from error
    except Exception as error:  # OSError, TimeoutError, and what TLS raises.
        raise ResourceError(
            f"The Dask scheduler at '{address}' does not answer.",
            "Check the address and that it runs (`dask scheduler`), or leave --scheduler out.",
        ) from error
    return DaskWorkers(client, patience_s, on_wait)


def dask_setup(worker: Worker) -> None:
    """Dask calls this in each worker process of this computer as it starts (see "preload")."""
    # Ctrl-C at a terminal reaches all its processes: the one that runs the cohort decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    visible = [gpu for gpu in os.environ.get("OFLSAM2_COHORT_GPUS", "").split(",") if gpu]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(worker.name) % len(visible)]


def need_dask() -> None:
    """Raises ResourceError where a package is missing that several workers need."""
    try:
        import cryptography  # noqa: F401
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"Several workers need the package '{error.name}', which is not installed.",
            'Install the extra "cohort" (in a clone: pip install ".[cohort]"), or use --workers 0: '
            "one case after the other in this process.",
        ) from error


def _quieten() -> None:
    """Silences what Dask logs of workers that come and go: the runner reports it, case by case."""
    # Those below "distributed" have levels of their own, by Dask's configuration.
    for name in ("distributed", "tornado", "asyncio", *logging.root.manager.loggerDict):
        if name.split(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
