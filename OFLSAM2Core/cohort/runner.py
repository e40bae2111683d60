"""A cohort from its first case to its last: who gets which case, and what is recorded."""

from __future__ import annotations

import logging
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from OFLSAM2Core.cohort.case_work import RunSettings
from OFLSAM2Core.cohort.cases import EMPTY, FAILED, RUNNING, WAITING, CaseInput
from OFLSAM2Core.cohort.fingerprint import fingerprint, stamp_of
from OFLSAM2Core.cohort.manifest import CaseRecord, Manifest
from OFLSAM2Core.cohort.outputs import missing_outputs
from OFLSAM2Core.cohort.workers import Workers
from OFLSAM2Core.errors import InputError, OFLSAM2Error

MOST_ATTEMPTS = 2
"""A case whose worker ends under it is done again, once: the second time it is the case's fault."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseEnded:
    """For who watches: a case has ended. done, total: of this run's cases."""

    record: CaseRecord
    done: int
    total: int


def run_cohort(
    cases: Iterable[CaseInput],
    settings: RunSettings,
    manifest: Manifest,
    workers: Workers,
    on_case: Callable[[CaseEnded], None],
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Segment all cases that wait, each recorded as it begins and ends.

    The manifest has begun a run (`Manifest.begin`) and knows the cases (`plan`). One bad case
    stops nothing. on_tick: called several times a second; it may raise to stop. Where this is
    interrupted, or workers are gone for good, what was running waits again, and "end" says why.
    """
    todo = deque(case for case in cases if manifest.content.cases[case.name].state == WAITING)
    total, done = len(todo), 0
    running: dict[str, CaseInput] = {}
    why = "stopped"
    try:
        if todo:
            workers.start(settings)
        while todo or running:
            on_tick()
            if todo:
                for worker in workers.idle():
                    if not todo:
                        break
                    case = todo.popleft()
                    manifest.running(case.name, worker)
                    running[case.name] = case
                    workers.give(worker, case)
            for finished in workers.finished():
                case = running.pop(finished.case.name)
                if finished.result is None and _may_try_again(manifest, case):
                    _log.info("the worker of case '%s' ended; it is done again", case.name)
                    todo.appendleft(case)
                    continue
                _record(manifest, case, finished.result)
                done += 1
                on_case(CaseEnded(manifest.content.cases[case.name], done, total))
        why = "finished"
    except KeyboardInterrupt:
        why = "interrupted"
        raise
    finally:
        if why != "finished":
            _log.info("the run ended early: %s", why)
        try:
            for case in (*running.values(), *todo):
                if manifest.content.cases[case.name].state == RUNNING:
                    manifest.waiting(case, {"why": why})
            manifest.end(why)
        except OFLSAM2Error as error:
            if why == "finished":
                raise
            _log.info("the end could not be recorded: %s", error)


def _may_try_again(manifest: Manifest, case: CaseInput) -> bool:
    return manifest.content.cases[case.name].attempts < MOST_ATTEMPTS


def _record(manifest: Manifest, case: CaseInput, result: dict[str, Any] | None) -> None:
    if result is None:
        manifest.failed(
            case.name,
            "resource",
            f"The worker process ended while it did this case, {MOST_ATTEMPTS} times.",
            "Most often memory ran out: use fewer workers, or a computer with more memory.",
        )
        return
    details = dict(result)
    manifest.finished(case.name, details.pop("state"), details)


def plan(
    cases: Iterable[CaseInput],
    manifest: Manifest,
    folder: Path,
    damaged: Mapping[tuple[str, ...], OFLSAM2Error] | None = None,
) -> tuple[CaseInput, ...]:
    """Tell the manifest which cases are to be done; return all, under the names that it knows.

    Done are new cases, those that failed or were begun, those whose input has changed since, and
    those of which an output is gone. Everything else stays as it is, by the manifest's word.
    damaged: cases that cannot be segmented, by their sources; they fail here.
    """
    named = _as_recorded(cases, manifest)
    for case in named:
        record = manifest.content.cases.get(case.name)
        if record is None:
            manifest.waiting(case)
        elif record.state in (FAILED, RUNNING, WAITING):
            if record.state != WAITING or record.sources != case.sources:
                manifest.waiting(case, {"why": record.reason or "begun"})
        elif why := _why_again(case, record, folder):
            manifest.waiting(case, {"why": why})
        error = (damaged or {}).get(case.sources)
        if error is not None and manifest.content.cases[case.name].state == WAITING:
            manifest.failed(case.name, error.kind, error.message, error.hint)
    return named


def _as_recorded(cases: Iterable[CaseInput], manifest: Manifest) -> tuple[CaseInput, ...]:
    """A case that was recorded keeps its name, whatever other cases there are now."""
    names = {record.sources: record.name for record in manifest.content.cases.values()}
    return tuple(replace(case, name=names.get(case.sources, case.name)) for case in cases)


def _why_again(case: CaseInput, record: CaseRecord, folder: Path) -> str:
    """Why a case with a result is to be done again, or ""."""
    known = record.details.get("input", {})
    if gone := missing_outputs(folder, record.details.get("outputs", {})):
        return f"the output '{gone[0]}' is gone or was changed"
    stamp = stamp_of(*case.sources)
    if stamp is not None and stamp != known.get("stamp"):
        # Copied or touched files have another stamp and the same contents.
        try:
            if fingerprint(*case.sources).sha256 != known.get("sha256"):
                return "the input has changed"
        except InputError:
            return "the input cannot be read any more"
    return ""


def machine() -> dict[str, Any]:
    """Which process on which computer runs the cohort."""
    return {"host": platform.node(), "pid": os.getpid()}


def has_failures(manifest: Manifest) -> bool:
    """Whether some case has no result: failed, or nothing found."""
    return bool(manifest.content.in_state(FAILED, EMPTY))
