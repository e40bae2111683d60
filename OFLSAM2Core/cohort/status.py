"""How far a cohort is, in a few lines."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from OFLSAM2Core.cohort.cases import DOUBTFUL, EMPTY, FAILED, RUNNING, SEGMENTED, STATES, WAITING
from OFLSAM2Core.cohort.folder import is_running
from OFLSAM2Core.cohort.manifest import CaseRecord, ManifestContent, read_manifest
from OFLSAM2Core.runtime.counted import counted

_LISTED = 20


def status_lines(folder: Path) -> list[str]:
    """What `oflsam2 cohort status` prints. Raises InputError where there is no manifest."""
    content = read_manifest(folder)
    lines = [f"{counted(len(content.cases), 'case')}: {counts(content)}.", _run_line(content)]
    if content.damaged:
        lines.append(
            f"The manifest is damaged in {counted(len(content.damaged), 'line')} (the first is "
            f"line "
            f"{content.damaged[0]}); --resume keeps a copy and does again what is not in it."
        )
    return [line for line in lines if line] + problem_lines(content)


def counts(content: ManifestContent) -> str:
    """'12 done, 1 failed, 3 waiting': the states that occur."""
    numbers = [(state, len(content.in_state(state))) for state in STATES]
    return ", ".join(f"{number} {state}" for state, number in numbers if number) or "none"


def problem_lines(content: ManifestContent) -> list[str]:
    """Failed, empty and doubtful cases with their reasons, in this order."""
    lines = []
    for state in (FAILED, EMPTY, DOUBTFUL):
        records = content.in_state(state)
        if records:
            lines.append(f"{state.capitalize()}:")
            lines += _listed(records)
    return lines


def _listed(records: Iterable[CaseRecord]) -> list[str]:
    records = sorted(records, key=lambda record: record.details.get("confidence") or 0)
    lines = [f"  {record.name}: {record.reason}" for record in records[:_LISTED]]
    if len(records) > _LISTED:
        lines.append(f"  and {len(records) - _LISTED} more: see report.html")
    return lines


def _run_line(content: ManifestContent) -> str:
    left = len(content.in_state(WAITING, RUNNING))
    if not content.runs:
        return ""
    run = content.runs[-1]
    where = f"process {run.get('pid')} on {run.get('host')}"
    runs = is_running(content, platform.node())
    if runs or (runs is None and left):
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["time"]))
        state = "Running" if runs else "Not ended, as far as this computer can see"
        return f"{state}: {where}, since {started}; {_time_left(content, left)}"
    if not left:
        return "Every case has ended."
    how = content.ended or "killed"
    return f"Not running ({how}); {_left(left)}: go on with --resume."


def _left(count: int) -> str:
    return f"{counted(count, 'case')} {'is' if count == 1 else 'are'} left"


def _time_left(content: ManifestContent, left: int) -> str:
    seconds = [
        record.details["seconds"]
        for record in content.in_state(*SEGMENTED)
        if record.details.get("seconds")
    ]
    if not seconds or not left:
        return f"{_left(left)}."
    at_once = max(1, len(content.in_state(RUNNING)))
    return f"{_left(left)}, about {median(seconds) * left / at_once / 60:.0f} min."
