"""A cohort that is worked through: its cases, least sure first, and what a person says of each.

The cohort's folder is that of `oflsam2 cohort`, which segments in a process of its own, also while
Slicer is closed. What a person says is kept beside it, in reviews.json.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.cohort.cases import RUNNING, SEGMENTED, WAITING
from OFLSAM2Core.cohort.manifest import FILE_NAME, CaseRecord, read_manifest
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.cases import SupportPair, read_labels
from OFLSAM2SlicerLib.confidence import show_as_confidence
from OFLSAM2SlicerLib.scene_run import SceneRun
from OFLSAM2SlicerLib.structures import structures_of_segmentation

REVIEWS = "reviews.json"
ACCEPTED, CORRECTED, REJECTED = "accepted", "corrected", "rejected"
CORRECTIONS = "corrected"
LOG = "cohort.log"
QUEUE = "queue.json"
# Endings of file names in the layouts "flat" and "bids".
LABELS = (".seg.nrrd", "_dseg.nii.gz")
CONFIDENCE = ("_confidence.nrrd", "_confidence.nii.gz")


@dataclass(frozen=True)
class CohortCase:
    """source, further: of its co-registered volumes. state: of the cohort's manifest. verdict: of a
    person, "" before that.

    milliliters: by structure. confidence: None before the case is segmented.
    """

    name: str
    source: str
    state: str
    reason: str = ""
    verdict: str = ""
    confidence: float | None = None
    milliliters: Mapping[str, float | None] | None = None
    outputs: tuple[str, ...] = ()
    further: tuple[str, ...] = ()

    @property
    def is_segmented(self) -> bool:
        return self.state in SEGMENTED

    @property
    def is_due(self) -> bool:
        """Whether somebody should look at it."""
        return self.is_segmented and not self.verdict


class Cohort:
    """Raises InputError where the folder holds no cohort."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.cases: list[CohortCase] = []
        self.refresh()

    def refresh(self) -> None:
        """Read again how far it is. Least sure cases come first, then those without a result."""
        content = read_manifest(self.folder)
        verdicts = self._verdicts()
        cases = [_case(record, verdicts.get(name, "")) for name, record in content.cases.items()]
        self.cases = sorted(cases, key=_order)

    def following(self, name: str = "") -> CohortCase | None:
        """The next case that is due, after the one of a name where it is among them; None where
        all that are segmented were looked at."""
        names = [case.name for case in self.cases]
        start = names.index(name) + 1 if name in names else 0
        due = [case for case in self.cases[start:] + self.cases[:start] if case.is_due]
        return due[0] if due else None

    def say(self, name: str, verdict: str) -> None:
        """Record a person's verdict on a case."""
        verdicts = {**self._verdicts(), name: verdict}
        with atomic_write(self.folder / REVIEWS) as beside:
            beside.write_text(json.dumps(verdicts, indent=1, sort_keys=True))
        self.refresh()

    def labels_of(self, case: CohortCase) -> Path | None:
        """The file of its segmentation: the corrected one, where there is one."""
        corrected = self.folder / CORRECTIONS / f"{case.name}.seg.nrrd"
        return corrected if corrected.is_file() else self._output(case, LABELS)

    def confidence_of(self, case: CohortCase) -> Path | None:
        return self._output(case, CONFIDENCE)

    def _output(self, case: CohortCase, endings: tuple[str, ...]) -> Path | None:
        found = [name for name in case.outputs if name.endswith(endings)]
        return self.folder / found[0] if found else None

    def _verdicts(self) -> dict[str, str]:
        try:
            read = json.loads((self.folder / REVIEWS).read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(
                f"'{self.folder / REVIEWS}' cannot be read: {error}.",
                "It holds the verdicts on the cases: repair it, or move it away.",
            ) from error
        return {str(name): str(verdict) for name, verdict in dict(read).items()}


def start_cohort(
    command: Sequence[str],
    environment: Mapping[str, str],
    inputs: Sequence[str],
    task: Path,
    folder: Path,
) -> subprocess.Popen[bytes]:
    """Segment all volumes of `inputs` with a learned task, in a process that goes on when Slicer
    is closed; where the folder holds a cohort already, go on with it.

    command: the worker's Python. What it says goes into a file beside the folder; so does what it
    was asked for, to go on with when it was stopped. Raises ResourceError.
    """
    with atomic_write(_beside(folder, QUEUE)) as temporary:
        temporary.write_text(json.dumps({"inputs": list(inputs), "task": str(task)}, indent=1))
    resume = ["--resume"] if (folder / FILE_NAME).is_file() else []
    words = [*command, "-m", "OFLSAM2Core", "cohort", *inputs, "--task", str(task)]
    # In that very process: Dask is none of the packages that are installed into Slicer.
    words += ["--out", str(folder), "--workers", "0", *resume]
    with _beside(folder, LOG).open("ab") as log:
        return subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **_apart(),
        )


def can_go_on(cohort: Cohort) -> bool:
    """Whether cases still wait that `go_on` would segment."""
    waiting = any(case.state in (WAITING, RUNNING) for case in cohort.cases)
    return waiting and _beside(cohort.folder, QUEUE).is_file()


def go_on(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    """Go on with a cohort that was stopped: the computer was shut down, say. Where its process
    still runs, another one is refused by it, in its log. Raises InputError."""
    path = _beside(folder, QUEUE)
    try:
        queue = json.loads(path.read_text())
        inputs, task = [str(each) for each in queue["inputs"]], Path(queue["task"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"'{path}' cannot be read: {error}.",
            "Go on by `oflsam2 cohort ... --resume`, with the inputs and task it was made with.",
        ) from error
    return start_cohort(command, environment, inputs, task, folder)


def last_words(folder: Path) -> str:
    """The last line that the process of a cohort wrote."""
    try:
        lines = _beside(folder, LOG).read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return " ".join(line.rsplit("\r", 1)[-1].strip() for line in lines[-2:])


def load_case(cohort: Cohort, case: CohortCase) -> tuple[Any, Any, Any, tuple[Any, ...]]:
    """Nodes of a case's volume, segmentation and confidence (None where there is none), and of the
    volumes that are co-registered with it.

    Raises InputError.
    """
    labels = cohort.labels_of(case)
    if labels is None:
        raise InputError(f"There is no result of '{case.name}' yet.", "Wait until it is segmented.")
    for source in (case.source, *case.further):
        if not Path(source).is_file():
            raise InputError(
                f"'{source}' is no file that can be loaded here.",
                "Load a DICOM series by the module DICOM, and the result by Add Data.",
            )
    volume = slicer.util.loadVolume(case.source, {"name": case.name})
    further = [
        slicer.util.loadVolume(source, {"name": f"{case.name} ({place})"})
        for place, source in enumerate(case.further, start=2)
    ]
    segmentation = slicer.util.loadSegmentation(str(labels), {"name": f"{case.name} segmentation"})
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    file = cohort.confidence_of(case)
    confidence = None
    if file is not None:
        confidence = slicer.util.loadVolume(str(file), {"name": f"{case.name} confidence"})
        show_as_confidence(confidence)
    return volume, segmentation, confidence, tuple(further)


def reviewed_run(
    volume: Any,
    segmentation: Any,
    confidence: Any,
    further: Sequence[Any] = (),
    known: Sequence[Structure] = (),
) -> Steps[SceneRun]:
    """A result of elsewhere as if a run had made it here, so that it can be reviewed and corrected:
    slices along the axis with the thickest of them; in steps.

    known: the learned task's structures; where the result is of these, it gets their labels, since
        the task is to learn from what is corrected. Raises InputError.
    """
    run = SceneRun(volume, segmentation, confidence, further=further)
    structures = _labelled_as(known, [one for _, one in structures_of_segmentation(segmentation)])
    pair = SupportPair(volume, segmentation)
    labelled, _present = yield from read_labels(pair, structures, run.notes)
    yield from run.adopt(structures, labelled)
    # Where several are equally thick, those that the volume is stored in, as a run does.
    thickness = np.linalg.norm(geometry.volume_to_local(volume)[:3, 2::-1], axis=0)
    axis = int(thickness.round(3).argmax())
    values = slicer.util.arrayFromVolume(confidence) if confidence is not None else None
    for index in range(labelled.shape[axis]):
        labels = np.take(labelled, index, axis)
        sure = np.full(labels.shape, 255, np.uint8)
        if values is not None:
            sure = np.take(values, index, axis).astype(np.uint8)
        scores = {
            one.name: float(sure[labels == one.label].mean()) / 255
            for one in structures
            if (labels == one.label).any()
        }
        run.scores.add(SliceResult(index, axis, labels, sure, scores))
        yield
    return run


def _labelled_as(known: Sequence[Structure], own: list[Structure]) -> list[Structure]:
    """Structures with the labels that others of the same names have, where all are the same."""
    labels = {one.name: one.label for one in known}
    if set(labels) != {one.name for one in own}:
        return own
    return [replace(one, label=labels[one.name]) for one in own]


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}-{name}")


def _apart() -> dict[str, Any]:
    """So that the process outlives this one."""
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW  # type: ignore[attr-defined]
        return {"creationflags": flags}
    return {"start_new_session": True}


def _case(record: CaseRecord, verdict: str) -> CohortCase:
    details = record.details
    structures = details.get("structures", ())
    return CohortCase(
        name=record.name,
        source=record.source,
        state=record.state,
        reason=record.reason,
        verdict=verdict,
        confidence=details.get("confidence") if record.state in SEGMENTED else None,
        milliliters={str(one["name"]): one.get("ml") for one in structures},
        outputs=tuple(details.get("outputs", ())) if record.state in SEGMENTED else (),
        further=record.further,
    )


def _order(case: CohortCase) -> tuple[bool, float, str]:
    sure = case.confidence if case.confidence is not None else 0.0
    return (not case.is_segmented, sure, case.name)
