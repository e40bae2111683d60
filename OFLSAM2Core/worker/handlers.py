"""What the worker does for each request. Everything heavy is imported when first needed."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.backbones import DEFAULT_BACKBONE
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.methods import default_for, get_method
from OFLSAM2Core.runtime.redaction import keep_out
from OFLSAM2Core.runtime.temporary import temporary_folder
from OFLSAM2Core.worker import payloads
from OFLSAM2Core.worker.about import about_worker
from OFLSAM2Core.worker.job import Answer, Job
from OFLSAM2Core.worker.protocol import ProtocolError
from OFLSAM2Core.worker.warm import (
    forget_opened,
    keep_opened,
    kept_opened,
    remember_task,
    task_at,
    task_of,
    warm_backbone,
)

if TYPE_CHECKING:
    from OFLSAM2Core.learned_task import LearnedTask
    from OFLSAM2Core.open_volume import OpenVolume
    from OFLSAM2Core.session import FewShotSession

# Importing PyTorch and preparing a backbone take 2 to 20 s the first time.
_STARTING = Progress("read", 0, 1, "loading the backbone")

_log = logging.getLogger(__name__)


def hello(job: Job) -> Answer:
    """Who is there."""
    return Answer(about_worker(), event="ready")


def learn(job: Job) -> Answer:
    """Learn a task from support cases; save it at `task_path`, send it back, or both."""
    cases = payloads.support_from(job.frame)
    task_path = job.take_optional("task_path", str)
    keep_out([task_path or ""])
    return_task = job.take("return_task", bool, False)
    if task_path is None and not return_task:
        raise ProtocolError("A 'learn' request needs 'task_path', or 'return_task'.")
    if task_path is not None:
        from OFLSAM2Core.io.writing import check_writable

        check_writable(task_path)
    job.on_progress(_STARTING)
    backbone = job.take("backbone", str, DEFAULT_BACKBONE)
    method = job.take("method", str, default_for(any(c.volume.is_sequence for c in cases)))
    session = _session(job, backbone, method)
    allow_missing = job.take("allow_missing", bool, False)
    task = session.learn(cases, job.on_progress, allow_missing=allow_missing)
    job.check_cancelled()
    with temporary_folder() as folder:
        path = Path(task_path or folder / "learned.oflsam2")
        task.save(path)
        content = np.fromfile(path, np.uint8)
    if task_path is not None:
        remember_task(path, task)
    fields = {**_about_task(task), "task_path": task_path, "seconds": job.seconds}
    return Answer(fields, {"task": content} if return_task else {})


def segment(job: Job) -> Answer:
    """Segment a volume; each slice is sent when it is ready.

    `keep` (bool): what was calculated for the volume stays in memory until another volume is
    segmented, so that a "correct" request need not calculate it again; where the method learns from
    corrections. The answer's `image` is the volume's `image_identity`.
    """
    forget_opened()
    task, opened = _opened(job)
    if job.take("keep", bool, False) and opened.learns_from_corrections:
        keep_opened(job.id, opened)
    slices = _send_slices(job, opened.slices(job.on_progress))
    fields = {"seconds": job.seconds, "slices": slices, "summary": task.summary()}
    return Answer({**fields, "image": opened.image_identity})


def correct(job: Job) -> Answer:
    """Learn from corrections (arrays `labels`, and `known`, not 0 where labels are truth), and send
    the slices that change by it.

    `segmented`: the number of the "segment" request with `keep` that is corrected. Where that is no
    longer kept, or was another worker's, the request must hold the volume and the task as a
    "segment" request does. image: the `image` of the answer to the request whose result was
    corrected; corrections of another volume are refused. return_task (bool): send the task back,
    with what was taught.
    """
    corrections = payloads.corrections_from(job.frame)
    number = job.frame.header.get("segmented")
    opened = kept_opened(number)
    if opened is None and "image" not in job.frame.arrays:
        raise InputError(
            "The worker no longer keeps what it calculated for this volume.",
            "Send the volume and the learned task with the corrections.",
        )
    if opened is None:
        _, opened = _opened(job)
        keep_opened(job.id if number is None else number, opened)
    return_task = job.take("return_task", bool, False)
    slices = _send_slices(job, opened.correct(corrections, job.on_progress))
    fields: dict[str, Any] = {"seconds": job.seconds, "slices": slices}
    if not return_task:
        return Answer(fields)
    task = opened.task()
    return Answer({**fields, **_about_task(task)}, {"task": _content(task)})


def add_case(job: Job) -> Answer:
    """Add one support case to a learned task, and send the task back."""
    (case,) = payloads.support_from(job.frame)
    job.on_progress(_STARTING)
    task = _task(job)
    session = _session(job, task.backbone, task.method)
    grown = session.add_case(task, case, job.on_progress)
    job.check_cancelled()
    fields = {**_about_task(grown), "seconds": job.seconds}
    return Answer(fields, {"task": _content(grown)})


def _opened(job: Job) -> tuple[LearnedTask, OpenVolume]:
    """The task and the volume of a request, ready to be segmented."""
    volume = payloads.volume_from(job.frame)
    job.on_progress(_STARTING)
    task = _task(job)
    session = _session(job, task.backbone, task.method)
    return task, session.open(volume, task, job.on_progress)


def _send_slices(job: Job, results: Iterator[SliceResult]) -> int:
    """Send every slice as it comes; returns how many there are."""
    slices = set()
    with closing(cast("Generator[SliceResult, None, None]", results)):
        for result in results:
            job.check_cancelled()
            job.send("slice", *payloads.slice_to(result))
            slices.add(result.index)
    return len(slices)


def _content(task: LearnedTask) -> npt.NDArray[np.uint8]:
    """The bytes of a task's file."""
    with temporary_folder() as folder:
        return np.fromfile(task.save(folder / "learned.oflsam2"), np.uint8)


def load_task(job: Job) -> Answer:
    """Read a learned task, tell what is in it, and keep it."""
    return Answer({**_about_task(_task(job)), "task_path": job.take_optional("task_path", str)})


def fetch_weights(job: Job) -> Answer:
    """Download a backbone's weights."""
    from OFLSAM2Core.backbones import weights

    path = weights.fetch(job.take("backbone", str), on_progress=job.on_progress)
    return Answer({"path": str(path), "seconds": job.seconds})


def remove_weights(job: Job) -> Answer:
    """Delete a backbone's downloaded weights."""
    from OFLSAM2Core.backbones import weights

    return Answer({"freed_bytes": weights.remove(job.take("backbone", str))})


HANDLERS: dict[str, Callable[[Job], Answer]] = {
    "hello": hello,
    "learn": learn,
    "segment": segment,
    "correct": correct,
    "add_case": add_case,
    "load_task": load_task,
    "fetch_weights": fetch_weights,
    "remove_weights": remove_weights,
}


def warm_up() -> None:
    """Import what the first job will need (2 s), while the user still chooses."""
    try:
        importlib.import_module("OFLSAM2Core.session")
    except Exception as error:  # of the import, whatever it is: the job that needs it will say so
        _log.info("Not ready to work yet: %s", error)


def _session(job: Job, backbone: str, method: str) -> FewShotSession:
    """The session a request asks for. Its "preset" and "options" are what the user changed: all
    else is the method's, in learning, and the task's, in segmenting."""
    from OFLSAM2Core.methods.changed_options import ChangedOptions
    from OFLSAM2Core.session import FewShotSession

    preset, options = job.take_optional("preset", str), job.take_optional("options", dict)
    # What is wrong with these is an error before a backbone is downloaded.
    chosen = get_method(method)
    ChangedOptions(chosen, preset, options or {})
    device, weights = job.take("device", str, "auto"), job.take_optional("weights", str)
    seed = job.take("seed", int, 0)
    if not chosen.needs_backbone:
        return FewShotSession(
            device=device, method=chosen, preset=preset, options=options, seed=seed
        )
    warm = warm_backbone(backbone, device, weights, job.on_progress)
    return FewShotSession(warm, method=chosen, preset=preset, options=options, seed=seed)


def _task(job: Job) -> LearnedTask:
    if "task" in job.frame.arrays:
        return task_of(job.frame.arrays["task"])
    path = Path(job.take("task_path", str))
    keep_out([path])
    return task_at(path)


def _about_task(task: LearnedTask) -> dict[str, Any]:
    return {
        "summary": task.summary(),
        "structures": [structure.to_json() for structure in task.structures],
        "sizes": task.sizes,
        "volume_count": task.volume_count,
        "backbone": task.backbone,
        "method": task.method,
    }
