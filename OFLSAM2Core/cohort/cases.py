"""One case of a cohort: what goes in, what comes out, and the states between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

WAITING = "waiting"
RUNNING = "running"
DONE = "done"
EMPTY = "empty"
DOUBTFUL = "doubtful"
FAILED = "failed"

STATES = (WAITING, RUNNING, DONE, EMPTY, DOUBTFUL, FAILED)
"""Every state, in the order in which a case goes through them. `done`: segmented; `doubtful`:
segmented, with little confidence or a structure that was not found; `empty`: nothing was found;
`failed`: there is no result, and a reason."""

SEGMENTED = (DONE, EMPTY, DOUBTFUL)
"""States of a case that has outputs."""


@dataclass(frozen=True)
class CaseInput:
    """One patient's volume to segment.

    name: unique in the cohort (case is ignored), fit for a file name.
    source: an absolute path as `read_volume` takes it: a file, a folder, `FOLDER#SERIES_UID`.
    further: likewise, of volumes that are co-registered with it.
    """

    name: str
    source: str
    further: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Where all volumes of the case lie, in order."""
        return (self.source, *self.further)


@dataclass(frozen=True)
class FoundCases:
    """The cases that INPUTS name.

    left_out: what was found and is no case: path and reason.
    """

    cases: tuple[CaseInput, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def file_name(text: str) -> str:
    """`text` as (part of) a file name on every system: letters, digits, `.`, `_`, `-`."""
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)
    return kept.strip("._-")[:120] or "case"


def without_shared_ending(names: Iterable[str], endings: Iterable[str]) -> list[str]:
    """The names without an ending that all of them have ("_0000", "_image"), where one stays
    itself a name."""
    names = list(names)
    for ending in endings:
        if names and all(name.endswith(ending) and len(name) > len(ending) for name in names):
            return [name[: -len(ending)] for name in names]
    return names
