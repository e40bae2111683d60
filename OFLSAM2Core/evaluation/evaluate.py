"""Learn from some labelled cases, segment others, and compare with their labels."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from OFLSAM2Core.data.results import ProgressCallback, SliceResult
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import Cancelled, OFLSAM2Error
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.evaluation.machine import peak_memory_mb
from OFLSAM2Core.evaluation.metrics import SegmentationMetrics, Spacing, compute_metrics
from OFLSAM2Core.evaluation.parts import PartAgreement, count_parts
from OFLSAM2Core.evaluation.reliability import CaseCalibration, check_case
from OFLSAM2Core.evaluation.sequences import FrameAgreement, frame_agreement, split_sequence
from OFLSAM2Core.runtime.counted import counted

if TYPE_CHECKING:
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.session import FewShotSession


@dataclass(frozen=True, eq=False)
class Learned:
    """The support has been learned.

    seconds: of the clock; core_seconds: of processor cores, in this process. support: names of its
    cases, or the sequence and how many frames of it.
    """

    task: LearnedTask
    seconds: float
    core_seconds: float
    support: str


@dataclass(frozen=True, eq=False)
class EvaluatedCase:
    """One test case.

    agreements: by structure name. peak_memory_mb: of this process so far. frames: by structure
        name, of a sequence; empty for volumes. parts: by structure name, of a volume.
    core_seconds: of processor cores that segmenting took in this process; None where unknown.
    """

    truth: SupportCase
    outcome: SegmentationBuffer
    agreements: dict[str, SegmentationMetrics]
    reliability: CaseCalibration
    peak_memory_mb: float
    frames: dict[str, FrameAgreement] = field(default_factory=dict)
    parts: dict[str, PartAgreement] = field(default_factory=dict)
    core_seconds: float | None = None

    @property
    def mean_dice(self) -> float:
        """Over the structures that are there or were predicted; nan where there are none."""
        values = [found.dice for found in self.agreements.values() if not np.isnan(found.dice)]
        return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True, eq=False)
class FailedCase:
    """A test case that could not be read or segmented. The others are evaluated all the same."""

    name: str
    error: Exception


def evaluate(
    session: FewShotSession,
    dataset: Dataset,
    support: Sequence[str],
    test: Sequence[str],
    on_progress: ProgressCallback | None = None,
    *,
    allow_missing: bool = False,
    support_percent: float = 5.0,
    unlabelled: bool = False,
) -> Iterator[Learned | EvaluatedCase | FailedCase]:
    """Yields `Learned` once, then every test case as it is done. Reads one test case at a time.
    Each sequence is learned from frames of its own and the other frames are segmented, so there is
    a `Learned` before each.

    What is wrong with a test case is reported as a `FailedCase`: what headers tell, before anything
    is learned. Raised is Cancelled, what is wrong with the support, and what is wrong with the
    first test case where headers leave none of them.

    allow_missing: accept a structure that is missing in some of the support.
    support_percent: of a sequence's frames that are learned from.
    unlabelled: learn from the test volumes, too, without their labels; not of sequences. Figures
        are then transductive: they hold for volumes that were at hand in learning.
    """
    damaged = look_at_cases(dataset, test)
    if len(damaged) == len(test):
        raise _none_left(damaged)
    yield from damaged
    test = [name for name in test if name not in {failed.name for failed in damaged}]
    if dataset.sequences:
        for name in test:
            try:
                yield from _one_sequence(session, dataset, name, support_percent, on_progress)
            except Cancelled:
                raise
            except Exception as error:
                yield FailedCase(name, error)
        return
    cases = dataset.read_support(support)
    volumes = dataset.read_unlabelled(test) if unlabelled else []
    started = _Stopwatch()
    task = session.learn(cases, on_progress, allow_missing=allow_missing, unlabelled=volumes)
    del cases, volumes
    yield Learned(task, *started.seconds(), ", ".join(support))
    for name in test:
        try:
            yield from segment_cases(session, dataset, task, [name], on_progress)
        except Cancelled:
            raise
        except Exception as error:
            yield FailedCase(name, error)


def look_at_cases(dataset: Dataset, test: Sequence[str]) -> list[FailedCase]:
    """The test cases that cannot be used, by the headers of their files."""
    damaged = []
    for name in test:
        try:
            dataset.look_at_case(name)
        except OFLSAM2Error as error:
            damaged.append(FailedCase(name, error))
    return damaged


def _none_left(damaged: Sequence[FailedCase]) -> Exception:
    first = damaged[0].error
    if len(damaged) == 1 or not isinstance(first, OFLSAM2Error):
        return first
    return type(first)(
        f"None of the {len(damaged)} test cases can be used. The first: {first.message}", first.hint
    )


def _one_sequence(
    session: FewShotSession,
    dataset: Dataset,
    name: str,
    percent: float,
    on_progress: ProgressCallback | None,
) -> Iterator[Learned | EvaluatedCase]:
    learned, others = split_sequence(dataset.read_case(name), percent)
    started = _Stopwatch()
    task = session.learn([learned], on_progress)
    yield Learned(task, *started.seconds(), f"{counted(len(learned.labels), 'frame')} of {name}")
    yield _segment(session, others, task, on_progress, in_voxels=True)


class _Stopwatch:
    def __init__(self) -> None:
        self._clock, self._cores = time.monotonic(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        """Since it was made: of the clock, and of processor cores in this process."""
        return time.monotonic() - self._clock, time.process_time() - self._cores


class Segments(Protocol):
    """What is evaluated: a FewShotSession, or anything to compare it with."""

    def segment(
        self, volume: Volume, task: Any, on_progress: ProgressCallback | None = None
    ) -> Iterator[SliceResult]: ...


def segment_cases(
    session: Segments,
    dataset: Dataset,
    task: Any,
    test: Sequence[str],
    on_progress: ProgressCallback | None = None,
) -> Iterator[EvaluatedCase]:
    """Every test case, as it is done, with a task that is learned already.

    task: what the session segments with; of a FewShotSession, a LearnedTask.
    """
    for name in test:
        truth = dataset.read_case(name, may_be_empty=True)
        yield _segment(session, truth, task, on_progress, in_voxels=dataset.nominal_spacing)


def _segment(
    session: Segments,
    truth: SupportCase,
    task: Any,
    on_progress: ProgressCallback | None,
    *,
    in_voxels: bool,
) -> EvaluatedCase:
    outcome, started = SegmentationBuffer(truth.volume), _Stopwatch()
    for result in session.segment(truth.volume, task, on_progress):
        outcome.add(result)
    _, core_seconds = started.seconds()
    return replace(compare(truth, outcome, in_voxels=in_voxels), core_seconds=core_seconds)


def compare(
    truth: SupportCase, outcome: SegmentationBuffer, *, in_voxels: bool = False
) -> EvaluatedCase:
    """An outcome against the labels of its case; distances in voxels or millimetres."""
    i, j, k = truth.volume.spacing
    spacing: Spacing = (1.0, 1.0, 1.0) if in_voxels else (k, j, i)
    masks = {
        structure.name: (truth.labels == structure.label, outcome.labels == structure.label)
        for structure in truth.structures
    }
    sequence = truth.volume.is_sequence
    return EvaluatedCase(
        truth=truth,
        outcome=outcome,
        agreements={name: compute_metrics(*both, spacing) for name, both in masks.items()},
        frames={name: frame_agreement(*both) for name, both in masks.items() if sequence},
        parts={name: count_parts(*both) for name, both in masks.items() if not sequence},
        reliability=check_case(outcome, truth.labels, truth.structures),
        peak_memory_mb=peak_memory_mb(),
    )
