"""Learning and segmenting in a real worker, on slabs of the shipped hippocampus cases."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from worker_commands import PRODUCT

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.reading import read_support_case
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.worker.client import Event, WorkerClient

SAMPLES = Path(__file__).resolve().parents[2] / "Resources" / "SampleData"
QUICK = {"training_steps": 8, "encoded_slices": 16, "slicing_axis": "axial", "atlas_prior": False}
SLICES = 3

pytestmark = pytest.mark.slow


def slab(case: str) -> SupportCase:
    """SLICES neighbouring axial slices of a case, where its labels are."""
    table = LabelTable.read(SAMPLES / "dataset.json")
    whole = read_support_case(
        SAMPLES / f"{case}_image.nii.gz", SAMPLES / f"{case}_label.nii.gz", table=table
    )
    start = int(np.argmax((whole.labels > 0).sum(axis=(1, 2)))) - SLICES // 2
    part = slice(start, start + SLICES)
    affine = whole.volume.affine.copy()
    affine[:3, 3] += start * affine[:3, 2]
    volume = Volume(whole.volume.array[part], affine, case)
    return SupportCase(volume, whole.labels[part], whole.structures)


@pytest.fixture(scope="module")
def supports() -> list[SupportCase]:
    return [slab("hippocampus_001"), slab("hippocampus_003")]


@pytest.fixture(scope="module")
def target() -> Volume:
    return slab("hippocampus_006").volume


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerClient]:
    """One warm worker for all tests here."""
    logs = tmp_path_factory.mktemp("logs")
    client = WorkerClient(PRODUCT, env={**os.environ, "OFLSAM2_LOG_DIR": str(logs)})
    client.start()
    yield client
    client.close()


@pytest.fixture(scope="module")
def learned(
    worker: WorkerClient, supports: list[SupportCase], tmp_path_factory: pytest.TempPathFactory
) -> Event:
    """The "done" event of learning from the supports."""
    path = tmp_path_factory.mktemp("task") / "hippocampus.oflsam2"
    job = worker.learn(supports, task_path=path, return_task=True, device="cpu", options=QUICK)
    done = worker.wait(job, timeout=600)
    assert done.name == "done", done.header
    return done


@pytest.fixture(scope="module")
def segmented(worker: WorkerClient, learned: Event, target: Volume) -> list[Event]:
    """All events of segmenting the target."""
    events: list[Event] = []
    job = worker.segment(target, task_path=learned.header["task_path"], device="cpu")
    done = worker.wait(job, events.append, timeout=600)
    assert done.name == "done", done.header
    return events


def put_together(events: list[Event], volume: Volume) -> np.ndarray:
    """The labels, as a caller writes them into an array of its own."""
    labels = np.full(volume.grid_shape, 255, np.uint8)
    for event in events:
        if event.name == "slice":
            result = event.slice_result()
            labels[result.index_expression] = result.labels
    return labels


def test_learning_reports_progress_and_writes_the_task_it_describes_and_sends(
    learned: Event, supports: list[SupportCase]
) -> None:
    path = Path(learned.header["task_path"])
    assert path.read_bytes() == learned.arrays["task"].tobytes()
    structures = [Structure.from_json(item) for item in learned.header["structures"]]
    assert tuple(structures) == supports[0].structures == LearnedTask.load(path).structures
    assert learned.header["backbone"] == "litemedsam"
    assert learned.header["seconds"] > 0
    assert learned.header["summary"]


def test_every_slice_arrives_and_equals_what_the_session_gives_in_this_process(
    learned: Event, segmented: list[Event], target: Volume
) -> None:
    results = [event.slice_result() for event in segmented if event.name == "slice"]
    assert {result.index for result in results} == set(range(SLICES))
    assert segmented[-1].header["slices"] == SLICES
    assert any(event.name == "progress" for event in segmented)
    task = LearnedTask.load(learned.header["task_path"])
    session = FewShotSession("litemedsam", "cpu")
    for ours, theirs in zip(results, session.segment(target, task), strict=True):
        assert (ours.index, ours.axis, ours.revision) == (
            theirs.index,
            theirs.axis,
            theirs.revision,
        )
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1)
        assert ours.scores == pytest.approx(theirs.scores, abs=1e-3)
    assert (put_together(segmented, target) > 0).any()


def test_a_task_sent_as_bytes_gives_what_the_file_on_the_workers_side_gives(
    worker: WorkerClient, learned: Event, segmented: list[Event], target: Volume
) -> None:
    events: list[Event] = []
    job = worker.segment(target, task=learned.arrays["task"].tobytes(), device="cpu")
    assert worker.wait(job, events.append, timeout=600).name == "done"
    np.testing.assert_array_equal(put_together(events, target), put_together(segmented, target))


def test_cancelling_in_the_middle_of_learning_keeps_the_worker_and_leaves_no_file(
    worker: WorkerClient, supports: list[SupportCase], tmp_path: Path
) -> None:
    pid = worker.pid
    path = tmp_path / "cancelled.oflsam2"
    options = {**QUICK, "training_steps": 4000}
    job = worker.learn(supports, task_path=path, device="cpu", options=options)
    stages: list[str] = []
    while "learn" not in stages:
        for event in worker.poll(timeout=0.1):
            assert not event.is_last, event.header
            stages.append(event.header.get("stage", ""))
    start = time.monotonic()
    worker.cancel(job, grace_s=10)
    failed = worker.wait(job, timeout=20)
    assert (failed.name, failed.header["kind"]) == ("failed", "cancelled")
    assert time.monotonic() - start < 5.0
    assert worker.wait(worker.hello()).name == "ready" and worker.pid == pid
    assert list(tmp_path.iterdir()) == []


def test_cancelling_in_the_middle_of_segmenting_keeps_the_slices_that_came_and_the_worker(
    worker: WorkerClient, learned: Event, segmented: list[Event], target: Volume
) -> None:
    pid, path = worker.pid, learned.header["task_path"]
    events: list[Event] = []
    job = worker.segment(target, task_path=path, device="cpu")

    def cancel_at_first_slice(event: Event) -> None:
        events.append(event)
        if event.name == "slice" and len([e for e in events if e.name == "slice"]) == 1:
            worker.cancel(job, grace_s=10)

    failed = worker.wait(job, cancel_at_first_slice, timeout=60)
    assert (failed.name, failed.header["kind"]) == ("failed", "cancelled")
    came = [event.slice_result() for event in events if event.name == "slice"]
    complete = [event.slice_result() for event in segmented if event.name == "slice"]
    assert 1 <= len(came) < len(complete)
    for ours, theirs in zip(came, complete, strict=False):
        assert (ours.index, ours.revision) == (theirs.index, theirs.revision)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert worker.wait(worker.hello()).name == "ready" and worker.pid == pid


def test_a_loaded_task_is_described(worker: WorkerClient, learned: Event) -> None:
    by_path = worker.wait(
        worker.request("load_task", {"task_path": learned.header["task_path"]}), timeout=60
    )
    by_bytes = worker.wait(
        worker.request("load_task", {}, {"task": learned.arrays["task"]}), timeout=60
    )
    for done in (by_path, by_bytes):
        assert done.name == "done"
        for name in ("structures", "backbone", "method", "summary"):
            assert done.header[name] == learned.header[name]


def test_a_task_file_replaced_by_another_is_read_again(
    worker: WorkerClient, learned: Event, tmp_path: Path
) -> None:
    path = tmp_path / "task.oflsam2"
    path.write_bytes(learned.arrays["task"].tobytes())
    request = {"task_path": str(path)}
    assert worker.wait(worker.request("load_task", request), timeout=60).name == "done"
    path.write_bytes(b"no longer a task")
    failed = worker.wait(worker.request("load_task", request), timeout=60)
    assert (failed.name, failed.header["kind"]) == ("failed", "task")


def test_what_is_wrong_with_a_request_is_reported_with_the_right_kind_before_work_starts(
    worker: WorkerClient, supports: list[SupportCase], target: Volume, tmp_path: Path
) -> None:
    task_path = tmp_path / "task.oflsam2"
    missing = tmp_path / "no such folder" / "task.oflsam2"
    cases: dict[str, tuple[int, str]] = {
        "folder": (worker.learn(supports, task_path=missing), "input"),
        "backbone": (worker.learn(supports, task_path=task_path, backbone="no"), "input"),
        "method": (worker.learn(supports, task_path=task_path, method="no"), "input"),
        "device": (worker.learn(supports, task_path=task_path, device="no"), "input"),
        "option": (worker.learn(supports, task_path=task_path, options={"no": 1}), "input"),
        "supports": (worker.learn([], task_path=task_path), "input"),
        "no task": (worker.segment(target, task_path=task_path), "task"),
        "bad task": (worker.segment(target, task=b"nonsense"), "task"),
        "fetch": (worker.request("fetch_weights", {"backbone": "no"}), "input"),
        "remove": (worker.request("remove_weights", {"backbone": "no"}), "input"),
    }
    answers: dict[int | None, Event] = {}
    worker.wait(
        max(job for job, _ in cases.values()),
        lambda event: answers.update({event.id: event} if event.is_last else {}),
        timeout=60,
    )
    for what, (job, kind) in cases.items():
        header = answers[job].header
        assert (answers[job].name, header.get("kind")) == ("failed", kind), (what, header)
        assert header["message"] and header["hint"], what


def test_labels_of_another_size_than_their_volume_are_an_input_error(
    worker: WorkerClient, supports: list[SupportCase], tmp_path: Path
) -> None:
    from OFLSAM2Core.worker import payloads

    fields, arrays = payloads.support_to(supports)
    arrays["labels1"] = arrays["labels1"][1:]
    request = {**fields, "task_path": str(tmp_path / "task.oflsam2")}
    failed = worker.wait(worker.request("learn", request, arrays), timeout=60)
    assert failed.header["kind"] == "input"
    assert "hippocampus_003" in failed.header["message"]


def test_a_warning_of_the_core_reaches_the_client_while_its_job_runs(
    worker: WorkerClient, supports: list[SupportCase]
) -> None:
    """Learning from one case only is allowed, with a warning."""
    job = worker.learn(supports[:1], return_task=True, device="cpu", options=QUICK)
    warnings: list[Event] = []
    while not warnings:
        warnings = [event for event in worker.poll(timeout=1) if event.name == "log"]
    worker.cancel(job, grace_s=60)
    worker.wait(job, timeout=60)
    assert (warnings[0].id, warnings[0].header["level"]) == (job, "warning")
    assert "hippocampus_001" in warnings[0].header["text"]
