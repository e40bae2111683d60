"""A cohort that is worked through: its cases, least sure first, and what a person says of each.

The cohort's folder is that of `oflsam2 cohort`, which segments in a process of its own, also while
Slicer is closed. What a person says is kept beside it, in reviews.json.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from OFLSAM2Core.app.steps import Steps
from OFLSAM2Core.cohort.cases import SEGMENTED
from OFLSAM2Core.cohort.manifest import FILE_NAME, CaseRecord, read_manifest
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2SlicerLib import geometry
from OFLSAM2SlicerLib.cases import SupportPair, read_support_case
from OFLSAM2SlicerLib.confidence import show_as_confidence
from OFLSAM2SlicerLib.scene_run import SceneRun

REVIEWS = "reviews.json"
ACCEPTED, CORRECTED, REJECTED = "accepted", "corrected", "rejected"
CORRECTIONS = "corrected"
LOG = "cohort.log"
# Of the layouts "flat" and "bids".
LABELS = (".seg.nrrd", "_dseg.nii.gz")
CONFIDENCE = ("_confidence.nrrd", "_confidence.nii.gz")


@dataclass(frozen=True)
class CohortCase:
    """state: of the cohort's manifest. verdict: of a person, "" before that.

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
        """Keep what a person said of a case."""
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
                "It holds what was said of the cases: repair it, or move it away.",
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

    command: the worker's Python. What it says goes into cohort.log beside the folder.
    """
    resume = ["--resume"] if (folder / FILE_NAME).is_file() else []
    words = [*command, "-m", "OFLSAM2Core", "cohort", *inputs, "--task", str(task)]
    words += ["--out", str(folder), *resume]
    with folder.with_name(f"{folder.name}-{LOG}").open("ab") as log:
        return subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **_apart(),
        )


def load_case(cohort: Cohort, case: CohortCase) -> tuple[Any, Any, Any]:
    """Nodes of a case's volume, segmentation and confidence (None where there is none).

    Raises InputError.
    """
    labels = cohort.labels_of(case)
    if labels is None:
        raise InputError(f"There is no result of '{case.name}' yet.", "Wait until it is segmented.")
    if not Path(case.source).is_file():
        raise InputError(
            f"'{case.source}' is no file that can be loaded here.",
            "Load a DICOM series by the module DICOM, and the result by Add Data.",
        )
    volume = slicer.util.loadVolume(case.source, {"name": case.name})
    segmentation = slicer.util.loadSegmentation(str(labels), {"name": f"{case.name} segmentation"})
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    file = cohort.confidence_of(case)
    confidence = None
    if file is not None:
        confidence = slicer.util.loadVolume(str(file), {"name": f"{case.name} confidence"})
        show_as_confidence(confidence)
    return volume, segmentation, confidence


def reviewed_run(volume: Any, segmentation: Any, confidence: Any) -> Steps[SceneRun]:
    """A result of elsewhere as if a run had made it here, so that it can be reviewed and corrected:
    slices along the axis with the thickest of them; in steps. Raises InputError."""
    run = SceneRun(volume, segmentation, confidence)
    read = yield from read_support_case(SupportPair(volume, segmentation))
    case = read.case
    yield from run.adopt(case.structures, case.labels)
    columns = geometry.volume_to_local(volume)[:3, :3]
    axis = 2 - int(np.linalg.norm(columns, axis=0).argmax())
    values = slicer.util.arrayFromVolume(confidence) if confidence is not None else None
    for index in range(case.labels.shape[axis]):
        labels = np.take(case.labels, index, axis)
        sure = np.full(labels.shape, 255, np.uint8)
        if values is not None:
            sure = np.take(values, index, axis).astype(np.uint8)
        scores = {
            one.name: float(sure[labels == one.label].mean()) / 255
            for one in case.structures
            if (labels == one.label).any()
        }
        run.scores.add(SliceResult(index, axis, labels, sure, scores))
        yield
    return run


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
    )


def _order(case: CohortCase) -> tuple[bool, float, str]:
    sure = case.confidence if case.confidence is not None else 0.0
    return (not case.is_segmented, sure, case.name)
