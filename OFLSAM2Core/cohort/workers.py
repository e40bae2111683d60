"""Who does the cases: the seam between the runner and Dask, and the simplest one, this process."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from OFLSAM2Core.cohort.case_work import RunSettings, prepare_process, segment_case
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.data.results import ProgressCallback


@dataclass(frozen=True)
class Finished:
    """A case came back. result: of `segment_case`; None where its worker ended under it."""

    case: CaseInput
    result: dict[str, Any] | None


class Workers(Protocol):
    """Processes that segment cases, one case each at a time."""

    def start(self, settings: RunSettings) -> None:
        """Make ready for the cases of a run.

        Raises OFLSAM2Error where no worker can do them.
        """

    def idle(self) -> list[str]:
        """Names of workers that are ready and have no case.

        Raises ResourceError where there is none any more, and none comes.
        """

    def give(self, worker: str, case: CaseInput) -> None:
        """An idle worker begins a case."""

    def finished(self) -> Iterator[Finished]:
        """Cases that have come back since the last call; waits a moment where there are none.

        Raises ResourceError where workers cannot be reached any more.
        """

    def close(self) -> None:
        """End what was started. Cases that run stop without outputs."""


class ThisProcess:
    """One case after the other, right here: for schedulers that forbid children."""

    def __init__(self, call: Callable[[Callable[[ProgressCallback], Any]], Any]) -> None:
        """call: runs a function of a progress callback so that Ctrl-C is answered meanwhile."""
        self._call = call
        self._case: CaseInput | None = None
        self._settings: RunSettings | None = None

    def start(self, settings: RunSettings) -> None:
        """Load backbone and task."""
        self._settings = settings
        self._call(lambda report: prepare_process(settings))

    def idle(self) -> list[str]:
        """This process, between cases."""
        return [] if self._case else [platform.node()]

    def give(self, worker: str, case: CaseInput) -> None:
        """Note the case; `finished` does it."""
        self._case = case

    def finished(self) -> Iterator[Finished]:
        """Does the case."""
        case, settings = self._case, self._settings
        if case is None or settings is None:
            return
        result = self._call(lambda report: segment_case(settings, case, report))
        self._case = None
        yield Finished(case, result)

    def close(self) -> None:
        """Nothing was started."""
