"""The record of a cohort: `manifest.jsonl` in its folder, one JSON line an event.

Only the process that runs the cohort writes it, a line at a time, each on the disk before the
next step; anyone may read it meanwhile. Every line ends with a checksum of itself.
docs/decisions/0034-cohort-manifest.md says why it is no database.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from OFLSAM2Core.cohort.cases import FAILED, RUNNING, SEGMENTED, STATES, WAITING, CaseInput
from OFLSAM2Core.errors import InputError, ResourceError
from OFLSAM2Core.runtime.atomic_write import atomic_write

FILE_NAME = "manifest.jsonl"
FORMAT = 1

_CHECK = ', "crc": "'


@dataclass
class CaseRecord:
    """What the manifest says of one case.

    source, further: as of `CaseInput`. state: one of `STATES`. details: of its last event, the
    fields of `CaseResult` or of a failure. attempts: how often it was begun since it last ended.
    times_segmented: how often it got outputs.
    """

    name: str
    source: str
    state: str = WAITING
    details: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    times_segmented: int = 0
    further: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Where all volumes of the case lie, in order."""
        return (self.source, *self.further)

    @property
    def reason(self) -> str:
        return str(self.details.get("reason", ""))


@dataclass
class ManifestContent:
    """A manifest as it was read.

    runs: the event with which each run began, oldest first: task, options, software, machine.
    ended: how the last run ended ("finished", "interrupted", ...); None while it runs, or where it
    was killed. damaged: lines that could not be read, by number from 1. torn: whether the last line
    was not (or is just being) written to its end.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    cases: dict[str, CaseRecord] = field(default_factory=dict)
    ended: str | None = None
    damaged: list[int] = field(default_factory=list)
    torn: bool = False
    events: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def identity(self) -> dict[str, Any]:
        """What all results of this folder were made with: task, options, layout."""
        return dict(self.runs[-1]["identity"]) if self.runs else {}

    def in_state(self, *states: str) -> list[CaseRecord]:
        return [record for record in self.cases.values() if record.state in states]

    def take(self, event: dict[str, Any]) -> None:
        """Go on by one event."""
        kind = event["event"]
        if kind == "run":
            self.runs.append(event)
            self.ended = None
        elif kind == "end":
            self.ended = event["why"]
        elif kind == "case":
            self._take_state(event)
        self.events.append(event)

    def _take_state(self, event: dict[str, Any]) -> None:
        name, state = event["case"], event["state"]
        if state not in STATES:
            raise ValueError(f"no state of a case: {state}")
        record = self.cases.setdefault(name, CaseRecord(name, event.get("source", "")))
        record.state = state
        if "source" in event:
            record.source, record.further = event["source"], tuple(event.get("further", ()))
        if state == RUNNING:
            record.attempts += 1
        elif state == WAITING:
            record.attempts = 0
            record.details = dict(event.get("details", {}))
        else:
            record.attempts = 0
            record.details = dict(event["details"])
            record.times_segmented += state in SEGMENTED


def read_manifest(folder: Path) -> ManifestContent:
    """What is in the folder's manifest; a line that cannot be read is in `damaged`.

    Raises InputError where there is no manifest, or it cannot be opened.
    """
    path = folder / FILE_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"'{folder}' has no manifest of a cohort ({FILE_NAME}): {error.strerror}.",
            "Give the folder that `oflsam2 cohort ... --out` wrote into.",
        ) from error
    content = ManifestContent()
    # After the last end of line comes nothing, or what was not written to its end.
    content.torn = bool(lines.pop())
    for number, line in enumerate(lines, start=1):
        try:
            content.take(_event(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            content.damaged.append(number)
    if content.runs and content.runs[-1].get("format") != FORMAT:
        raise InputError(
            f"The manifest of '{folder}' has format {content.runs[-1].get('format')}; this version "
            f"of oflsam2 reads {FORMAT}.",
            "Use the version that wrote it, or another --out.",
        )
    return content


class Manifest:
    """The manifest of a run, open for writing. Use it with the folder's lock held."""

    def __init__(self, folder: Path, content: ManifestContent, file: BinaryIO) -> None:
        self.path = folder / FILE_NAME
        self.content = content
        self._file = file

    @classmethod
    def create(cls, folder: Path) -> Manifest:
        """A new one. Raises ResourceError where it cannot be written."""
        return cls(folder, ManifestContent(), _opened(folder / FILE_NAME, "xb"))

    @classmethod
    def reopen(cls, folder: Path) -> tuple[Manifest, Path | None]:
        """The one that is there, and, where it was damaged, the copy that was kept of it.

        Raises InputError where nothing in it says what the folder's results were made with.
        """
        content = read_manifest(folder)
        is_damaged = content.torn or bool(content.damaged or (content.cases and not content.runs))
        kept = _keep_aside(folder / FILE_NAME) if is_damaged else None
        if is_damaged and not content.runs:
            raise InputError(
                f"The manifest of '{folder}' is damaged: it does not say any more what the "
                f"results there were made with. It was kept as '{kept}'.",
                "Choose another --out, or restore the manifest from a copy.",
            )
        if kept is not None:
            with atomic_write(folder / FILE_NAME) as temporary:
                temporary.write_bytes(b"".join(_line(event) for event in content.events))
        return cls(folder, content, _opened(folder / FILE_NAME, "r+b")), kept

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self, identity: Mapping[str, Any], **described: Any) -> None:
        """A run begins."""
        self._append({"event": "run", "format": FORMAT, "identity": dict(identity), **described})

    def end(self, why: str) -> None:
        self._append({"event": "end", "why": why})

    def waiting(self, case: CaseInput, details: Mapping[str, Any] | None = None) -> None:
        """A case is to be done; details: why again, or nothing."""
        event = {"event": "case", "case": case.name, "state": WAITING, "source": case.source}
        more = {"further": list(case.further)} if case.further else {}
        self._append({**event, **more, "details": dict(details or {})})

    def running(self, name: str, worker: str) -> None:
        self._append({"event": "case", "case": name, "state": RUNNING, "worker": worker})

    def finished(self, name: str, state: str, details: Mapping[str, Any]) -> None:
        """It is done, empty, doubtful or failed."""
        self._append({"event": "case", "case": name, "state": state, "details": dict(details)})

    def failed(self, name: str, kind: str, reason: str, hint: str = "", **more: Any) -> None:
        self.finished(name, FAILED, {"kind": kind, "reason": reason, "hint": hint, **more})

    def _append(self, event: dict[str, Any]) -> None:
        event = {"time": round(time.time(), 3), **event}
        end = self._file.seek(0, os.SEEK_END)
        line = _line(event)
        try:
            while line:  # A disk that is nearly full takes a part.
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # Half a line must not stay.
            self._file.truncate(end)
            raise ResourceError(
                f"The manifest '{self.path}' cannot be written on: {error.strerror}.",
                "Free some space or see that the folder is writable; then go on with --resume.",
            ) from error
        self.content.take(event)


def _opened(path: Path, mode: str) -> BinaryIO:
    try:
        return open(path, mode, buffering=0)  # type: ignore[return-value]
    except OSError as error:
        raise ResourceError(
            f"The manifest '{path}' cannot be written: {error.strerror}.",
            "Choose another --out, or see that the folder is writable.",
        ) from error


def _line(event: Mapping[str, Any]) -> bytes:
    text = json.dumps(event, allow_nan=False)[:-1]
    return f'{text}{_CHECK}{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _event(line: bytes) -> dict[str, Any]:
    """Raises ValueError where the line is not as it was written."""
    text = line.decode()
    event = json.loads(text)
    content, check, sum_ = text.rpartition(_CHECK)
    if not check or f"{zlib.crc32(content.encode()):08x}" != sum_[:8]:
        raise ValueError("the checksum is another one")
    del event["crc"]
    return dict(event)


def _keep_aside(path: Path) -> Path:
    """Copy a damaged file to a name of its own; it is never written again."""
    for number in range(1, 10_000):
        kept = path.with_name(f"manifest.damaged-{number}.jsonl")
        try:
            with open(kept, "xb") as copy, open(path, "rb") as original:
                shutil.copyfileobj(original, copy)
            return kept
        except FileExistsError:
            continue
    raise ResourceError(f"There are too many damaged manifests in '{path.parent}'.", "Tidy up.")
