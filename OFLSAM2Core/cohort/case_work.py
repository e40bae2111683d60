"""What is done with one case: read, segment, judge, write. Runs in a Dask worker or right here.

The backbone and the task stay in the process from case to case.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from OFLSAM2Core import __version__
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.fingerprint import fingerprint, stamp_of
from OFLSAM2Core.cohort.folder import check_still_wanted
from OFLSAM2Core.cohort.judgement import judge
from OFLSAM2Core.cohort.memory_estimate import bytes_for, volume_sizes
from OFLSAM2Core.cohort.outputs import Layout, all_or_none, written_files
from OFLSAM2Core.cohort.preview import write_preview
from OFLSAM2Core.data.results import Progress, ProgressCallback, SliceResult
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structure_status import Sizes
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import Cancelled, InputError, OFLSAM2Error
from OFLSAM2Core.io.dicom_seg_writing import check_dicom_seg, write_dicom_seg
from OFLSAM2Core.io.reading import check_writable, read_volume
from OFLSAM2Core.io.volume_size import VolumeSize
from OFLSAM2Core.runtime.counted import counted
from OFLSAM2Core.runtime.memory_check import require_memory
from OFLSAM2Core.runtime.memory_estimate import not_yet_held
from OFLSAM2Core.runtime.peak_memory import PeakMemory
from OFLSAM2Core.worker.failures import failure_of

_STILL_WANTED_EVERY_S = 1.0


class Segmenter(Protocol):
    """A method that has learned, ready for any number of volumes. sizes: of the support, by a
    structure's name the least and the greatest, ml."""

    structures: tuple[Structure, ...]
    sizes: Sizes

    def segment(self, volume: Volume, report: ProgressCallback) -> Iterator[SliceResult]: ...


class SegmenterSource(Protocol):
    """What a process needs to make the segmenter: small, picklable and hashable."""

    def __hash__(self) -> int: ...

    def load(self) -> Segmenter:
        """Raises OFLSAM2Error where this process cannot (no such file, device, weights)."""


@dataclass(frozen=True)
class RunSettings:
    """What all cases of a run share.

    folder: of the cohort, at the same path for every worker. mark: of `start_run`.
    doubtful_below: confidence of a case below which it is doubtful. dicom_seg: whether a case that
    came as DICOM gets a DICOM SEG, too.
    """

    folder: Path
    mark: str
    segmenter: SegmenterSource
    layout: Layout
    doubtful_below: float
    dicom_seg: bool = False


def prepare_process(settings: RunSettings) -> str:
    """Before the first case: load backbone and task, and see that this process sees the folder.

    Returns the computer's name. Raises OFLSAM2Error saying what this process lacks.
    """
    if not settings.folder.is_dir():
        raise InputError(
            f"The output folder '{settings.folder}' is not there on '{platform.node()}'.",
            "Choose an --out on a disk that all workers share, at the same path.",
        )
    check_still_wanted(settings.folder, settings.mark)
    _segmenter(settings.segmenter)
    return platform.node()


def segment_case(
    settings: RunSettings, case: CaseInput, on_progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """Segment one case and write its outputs, all or none.

    Returns plain values for the manifest: "state" and the case's details, or state "failed" with
    kind, reason and hint: whatever goes wrong with a case is its own. Raises Cancelled where the
    run has ended or was stopped.
    """
    started = time.monotonic()
    watch = PeakMemory()
    details: dict[str, Any]
    with watch, _Notes() as notes:
        try:
            details = _segmented(settings, case, on_progress or _no_progress)
        except Cancelled:
            raise
        except Exception as error:
            if not isinstance(error, OFLSAM2Error):
                logging.getLogger(__name__).info("case '%s' failed", case.name, exc_info=True)
            failure = failure_of(error)
            details = {
                "state": "failed",
                "kind": failure["kind"],
                "reason": failure["message"],
                "hint": failure["hint"],
            }
    return {
        **details,
        "notes": notes.texts,
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_mb": round(watch.peak_bytes / 1e6, 1),
        "computer": platform.node(),
        "software": software(),
    }


@lru_cache(maxsize=1)
def software() -> dict[str, str]:
    """Versions that may change a result."""
    import numpy
    import torch

    return {
        "oflsam2": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def _segmented(settings: RunSettings, case: CaseInput, report: ProgressCallback) -> dict[str, Any]:
    check_still_wanted(settings.folder, settings.mark)
    segmenter = _segmenter(settings.segmenter)
    source = fingerprint(*case.sources)
    structures = len(segmenter.structures)
    sizes = volume_sizes(case)
    _require_room(settings, case, sizes, structures)
    volume = read_volume(case.source, further=case.further)
    if sizes[0] is None:  # The header did not tell.
        array = volume.array
        size = VolumeSize(array.shape, array.nbytes, 0, SliceGeometry.for_volume(volume).count)
        _require_room(settings, case, [size, *sizes[1:]], structures)
    outcome = SegmentationBuffer(volume)
    for result in segmenter.segment(volume, _ending(report, settings)):
        outcome.add(result)
    if not outcome.is_complete:
        raise RuntimeError(
            f"the method gave {outcome.slices_done} of "
            f"{counted(outcome.slices_total or 0, 'slice')}"
        )
    if stamp_of(*case.sources) != source.stamp:
        raise InputError(
            f"'{' + '.join(case.sources)}' was changed or removed while it was segmented.",
            "Run again with --resume when it is complete.",
        )
    judged = judge(outcome, segmenter.structures, settings.doubtful_below, segmenter.sizes)
    with all_or_none(settings.folder) as staging:
        settings.layout.write(
            staging, case, volume, outcome.labels, outcome.confidence, segmenter.structures
        )
        if settings.dicom_seg and _is_dicom(volume):
            path = staging / f"{settings.layout.stem(case)}.dcm"
            write_dicom_seg(path, outcome.labels, volume, segmenter.structures)
        write_preview(staging, case.name, outcome, segmenter.structures)
        outputs = written_files(staging)
        check_still_wanted(settings.folder, settings.mark)
    return {
        **judged,
        "shape": list(volume.grid_shape),
        "spacing": [round(mm, 4) for mm in volume.spacing],
        "input": source.to_json(),
        "outputs": outputs,
    }


def _require_room(
    settings: RunSettings, case: CaseInput, sizes: list[VolumeSize | None], structures: int
) -> None:
    """Raises ResourceError where disk or memory is too small for volumes of these sizes; nothing
    where that of the first is not known."""
    first, *further = sizes
    if first is None:
        return
    check_writable(settings.folder / case.name, need_bytes=first.voxels)
    require_memory(
        not_yet_held(bytes_for(first, structures, filter(None, further))),
        f"'{case.source}'",
        "Give workers more memory, or fewer of them.",
    )


def _is_dicom(volume: Volume) -> bool:
    """Raises ResourceError where highdicom is not installed."""
    try:
        check_dicom_seg(volume)
    except InputError:
        return False
    return True


@lru_cache(maxsize=1)
def _segmenter(source: SegmenterSource) -> Segmenter:
    return source.load()


def _ending(report: ProgressCallback, settings: RunSettings) -> ProgressCallback:
    """The callback, which now and then sees whether the run still wants the case."""
    asked = time.monotonic()

    def ending(progress: Progress) -> None:
        nonlocal asked
        report(progress)
        if time.monotonic() - asked > _STILL_WANTED_EVERY_S:
            check_still_wanted(settings.folder, settings.mark)
            asked = time.monotonic()

    return ending


def _no_progress(progress: Progress) -> None:
    """Nobody watches this case."""


class _Notes(logging.Handler):
    """Warnings of this package while a case is worked on: they belong to the case."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the sentence, once."""
        text = record.getMessage()
        if text not in self.texts:
            self.texts.append(text)

    def __enter__(self) -> _Notes:
        logging.getLogger("OFLSAM2Core").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("OFLSAM2Core").removeHandler(self)
