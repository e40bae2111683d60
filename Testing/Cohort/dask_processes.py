"""A Dask scheduler and its workers as processes of their own, as on a cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from distributed import Client


@dataclass
class Cluster:
    """`file`: what `--scheduler` takes. Everything ends with the block."""

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    def __enter__(self) -> Cluster:
        self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show")
        until = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < until, "the scheduler did not start"
            time.sleep(0.1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    @property
    def scheduler(self) -> subprocess.Popen[bytes]:
        return self.processes[0]

    def add_worker(self, **more: str) -> subprocess.Popen[bytes]:
        return self._start("dask_worker", "--nthreads", "2", "--no-nanny", **more)

    def count_workers(self) -> int:
        with Client(scheduler_file=str(self.file)) as client:
            return len(client.nthreads())

    def _start(self, program: str, *words: str, **more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{program}", *words, "--no-dashboard"]
        self.processes.append(
            subprocess.Popen(
                [*command, "--scheduler-file", str(self.file)],
                env={**self.environment, **more},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        return self.processes[-1]
