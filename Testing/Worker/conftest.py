"""Workers for the tests: real processes, with their logs in the test's own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_commands import HOOKS

from OFLSAM2Core.worker.client import WorkerClient, worker_environment


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a worker, which finds the package and logs into the test's own folder."""
    return {**worker_environment(os.environ), "OFLSAM2_LOG_DIR": str(tmp_path / "logs")}


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[WorkerClient]:
    """A running worker with the further requests of worker_with_hooks.py."""
    client = WorkerClient(HOOKS, env=environment)
    client.start()
    yield client
    client.close(timeout_s=0.5)
