"""Workers of a Dask cluster: on this computer, or behind a scheduler that runs already.

Cases are given to workers by address, one at a time each: a worker with several threads does not
segment several volumes at once, only workers that were checked get cases, and when one ends it is
known which case ended with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from OFLSAM2Core import __version__
from OFLSAM2Core.cohort.case_work import RunSettings, prepare_process, segment_case
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.workers import Finished
from OFLSAM2Core.errors import OFLSAM2Error, ResourceError

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_S = 10.0
"""Seconds that a scheduler has to answer."""

_LOOK_EVERY_S = 0.5
_WAIT_S = 0.1

_log = logging.getLogger(__name__)


@dataclass
class _Worker:
    """preparing: pending while the worker loads the task; None once it is ready. case, future: the
    case that it segments; None while it has none."""

    preparing: Future | None
    case: CaseInput | None = None
    future: Future | None = None


@dataclass
class DaskWorkers:
    """Implements `Workers` on a Dask client.

    patience_s: seconds without any usable worker after which the run ends. on_wait: called once,
    with a sentence, while there is no worker yet. cluster: closed at the end; None for a cluster
    that others started.
    """

    client: Client
    patience_s: float = 300.0
    on_wait: Callable[[str], None] = _log.warning
    cluster: Any = None
    _settings: RunSettings | None = None
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _unfit: dict[str, str] = field(default_factory=dict)
    _lost: list[CaseInput] = field(default_factory=list)
    _looked: float = 0.0
    _none_since: float | None = None
    _reported_waiting: bool = False

    def start(self, settings: RunSettings) -> None:
        """Workers begin to load backbone and task; they are `idle` when they have."""
        self._settings = settings

    def idle(self) -> list[str]:
        """Addresses of workers that are ready and have no case."""
        self._look()
        ready = []
        for address, worker in list(self._workers.items()):
            if worker.preparing is not None and worker.preparing.done():
                self._note_prepared(address, worker)
            if address in self._workers and worker.preparing is None and worker.case is None:
                ready.append(address)
        self._check_patience()
        return ready

    def give(self, worker: str, case: CaseInput) -> None:
        """Begin a case on an idle worker."""
        own = self._workers[worker]
        own.case = case
        own.future = self._submit(worker, segment_case, case)

    def finished(self) -> Iterator[Finished]:
        """Cases that came back, and cases whose worker ended under them."""
        self._look()
        came = 0
        for case in self._lost:
            came += 1
            yield Finished(case, None)
        self._lost.clear()
        for worker in list(self._workers.values()):
            if worker.case is None or worker.future is None or not worker.future.done():
                continue
            case, future = worker.case, worker.future
            worker.case = worker.future = None
            came += 1
            yield Finished(case, self._result(future))
        if not came:
            time.sleep(_WAIT_S)

    def close(self) -> None:
        """Drop what runs; end the cluster where it is ours."""
        with suppress(Exception):
            self.client.cancel([w.future for w in self._workers.values() if w.future], force=True)
        for thing in (self.client, self.cluster):
            if thing is not None:
                with suppress(Exception):
                    thing.close(timeout=5)

    def _submit(self, address: str, function: Callable[..., Any], *args: Any) -> Future:
        return self.client.submit(
            function,
            self._settings,
            *args,
            workers=[address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )

    def _result(self, future: Future) -> dict[str, Any] | None:
        """None: the worker died; what a case raises by itself, `segment_case` has caught."""
        try:
            return dict(future.result(timeout=30))
        except OFLSAM2Error as error:
            return {
                "state": "failed",
                "kind": error.kind,
                "reason": error.message,
                "hint": error.hint,
            }
        except Exception as error:
            _log.info("a case was lost: %s", error)
            self._look(at_once=True)  # It may be the scheduler that was lost.
            return None

    def _look(self, at_once: bool = False) -> None:
        """See, now and then, which workers there are."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S and not at_once:
            return
        self._looked = now
        addresses = set(self._addresses())
        for address in set(self._workers) - addresses:
            gone = self._workers.pop(address)
            for future in (gone.future, gone.preparing):
                if future is not None:
                    future.cancel()
            if gone.case is not None:
                self._lost.append(gone.case)
        new = addresses - set(self._workers) - set(self._unfit)
        if new:
            self._admit(new)

    def _addresses(self) -> list[str]:
        """Raises ResourceError where the scheduler is gone."""
        try:
            if self.client.status != "running":
                raise OSError(f"the connection is {self.client.status}")
            return list(self.client.nthreads())
        except Exception as error:  # Any kind of error: the connection closes, times out, ends.
            raise ResourceError(
                f"The Dask scheduler is gone ({type(error).__name__}: {error}).",
                "What was finished is kept. Start a scheduler, and go on with --resume.",
            ) from error

    def _admit(self, addresses: set[str]) -> None:
        """Workers with this very version begin to load backbone and task."""
        try:
            versions = _versions(self.client, addresses)
        except Exception as error:  # A worker that has just ended; it will not be there next time.
            _log.info("versions could not be asked for: %s", error)
            return
        for address, found in versions.items():
            if found != __version__:
                self._unfit[address] = (
                    f"it has oflsam2 {found}, not {__version__}"
                    if found
                    else "its Python has no package oflsam2"
                )
            elif self._settings is not None:
                self._workers[address] = _Worker(self._submit(address, prepare_process))

    def _note_prepared(self, address: str, worker: _Worker) -> None:
        future, worker.preparing = worker.preparing, None
        assert future is not None
        try:
            future.result(timeout=30)
        except Exception as error:
            del self._workers[address]
            if future.status == "error":
                text = (
                    str(error).replace("\n", " ")
                    if isinstance(error, OFLSAM2Error)
                    else repr(error)
                )
                self._unfit[address] = text

    def _check_patience(self) -> None:
        """Raises ResourceError where there has been no usable worker for too long."""
        if self._workers:
            self._none_since = None
            return
        now = time.monotonic()
        self._none_since = self._none_since or now
        waited = now - self._none_since
        if self._unfit and not self._reported_waiting and waited > 2 or waited >= self.patience_s:
            raise ResourceError(*self._no_worker())
        if waited > 2 and not self._reported_waiting:
            self._reported_waiting = True
            self.on_wait("The Dask scheduler has no worker yet; waiting for one.")

    def _no_worker(self) -> tuple[str, str]:
        if self._unfit:
            address, why = next(iter(self._unfit.items()))
            return (
                f"None of the {len(self._unfit)} Dask workers can be used: {address}: {why}.",
                "Mend that on the workers (see docs/cohort.md); then run again, with --resume.",
            )
        return (
            f"The Dask scheduler has had no worker for {self.patience_s:.0f} s.",
            "Start workers (see docs/cohort.md); then run again, with --resume.",
        )


def _versions(client: Client, addresses: set[str]) -> dict[str, str | None]:
    """By address, which version of this package a worker has; None: none at all."""

    # A function within a function travels whole, so that a worker without the package can run it.
    def version() -> str | None:
        try:
            from OFLSAM2Core import __version__ as found
        except ImportError:
            return None
        return found

    versions = client.run(version, workers=list(addresses), on_error="ignore")
    return dict(versions)
