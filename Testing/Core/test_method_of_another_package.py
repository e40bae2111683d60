"""A method of another package, by its entry point: through session, command line and worker."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from command_line import ROOT, refused, run, succeed
from toy_package import case_of

from OFLSAM2Core import methods
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.worker.client import Event, WorkerClient


def _labels(session: FewShotSession, case: SupportCase, task: LearnedTask) -> npt.NDArray:
    found = np.zeros(case.labels.shape, np.uint8)
    for result in session.segment(case.volume, task):
        found[result.index_expression] = result.labels
    return found


def test_a_session_learns_and_segments_with_it_and_loads_no_backbone(
    package: Path, tmp_path: Path
) -> None:
    assert "toy-threshold" in methods.names()
    session = FewShotSession(method="toy-threshold")
    task = session.learn([case_of(1), case_of(2)])
    target = case_of(3)
    np.testing.assert_array_equal(_labels(session, target, task), target.labels)
    loaded = LearnedTask.load(task.save(tmp_path / "box.oflsam2"))
    assert loaded.backbone == "" and loaded.summary()["kind"] == "toy"
    np.testing.assert_array_equal(_labels(session, target, loaded), target.labels)
    inverted = FewShotSession(method="toy-threshold", options={"invert": True})
    np.testing.assert_array_equal(_labels(inverted, target, loaded), 1 - target.labels)
    with pytest.raises(InputError, match="works without a backbone"):
        _ = session.backbone


def test_timings_are_of_the_last_job_alone(package: Path) -> None:
    session = FewShotSession(method="toy-threshold")
    task = session.learn([case_of(1)])
    for _ in range(2):
        list(session.segment(case_of(2).volume, task))
        assert session.timings.counts["compare"] == 6


def test_what_is_wrong_is_reported_when_segment_is_called(package: Path) -> None:
    session = FewShotSession(method="toy-threshold")
    task = session.learn([case_of(1)])
    with pytest.raises(InputError):
        session.segment(Volume(np.zeros((2, 3), np.float32)), task)
    with pytest.raises(InputError, match="sequence of frames"):
        session.segment(Volume(np.zeros((4, 8, 8, 3), np.uint8)), task)
    with pytest.raises(InputError, match="bias"):
        session.segment(case_of(2).volume, task, options={"bias": 1.0})


def test_a_task_of_another_method_is_refused(package: Path) -> None:
    task = FewShotSession(method="toy-threshold").learn([case_of(1)])
    other = type("Other", (methods.get_method("toy-threshold").__class__,), {"name": "other"})()
    with pytest.raises(TaskError, match="for the method 'toy-threshold', not 'other'"):
        FewShotSession(method=other).segment(case_of(2).volume, task)


def test_a_package_that_cannot_be_loaded_is_named_and_the_others_remain(package: Path) -> None:
    with pytest.raises(InputError, match="nowhere_at_all"):
        methods.get_method("broken")
    described = [each["name"] for each in methods.describe_all()]
    assert "toy-threshold" in described and "broken" not in described


def test_the_command_line_lists_it_with_its_options_learns_and_segments(
    package: Path, tmp_path: Path
) -> None:
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    for name in ("a", "b", "c"):
        case = case_of(ord(name))
        sitk.WriteImage(sitk.GetImageFromArray(case.volume.array), str(tmp_path / f"{name}.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(case.labels), str(tmp_path / f"{name}_l.nii.gz"))
    assert "labels what is bright" in succeed("methods", **path)
    printed = succeed("methods", "toy-threshold", **path)
    assert "threshold=0.5" in printed and "Whether dark voxels are labelled instead." in printed
    printed = succeed("learn", "--method", "toy-threshold", "--help", **path)
    assert "--threshold FLOAT" in printed and "Default: 0.5" in printed
    support = [f"--support={tmp_path / n}.nii.gz={tmp_path / n}_l.nii.gz" for n in ("a", "b")]
    task, out = tmp_path / "box.oflsam2", tmp_path / "c.nii.gz"
    succeed("learn", *support, "--method", "toy-threshold", "--out", task, **path)
    words = ("segment", "--task", task, out, "--out", tmp_path / "c.seg.nrrd", "--overwrite")
    succeed(*words, "--labelmap", tmp_path / "found.nii.gz", **path)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "found.nii.gz")))
    np.testing.assert_array_equal(found, case_of(ord("c")).labels)
    for flag in (("--set", "threshold=2"), ("--method", "toy-threshold", "--threshold", "2")):
        refused(run(*words, *flag, **path), "threshold", "0 to 1")
    refused(run(*words, "--set", "bias=2", **path), "bias", "settled")


def test_a_worker_learns_and_segments_with_it(package: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    target = case_of(3)
    found = np.zeros(target.labels.shape, np.uint8)
    client = WorkerClient(env=env)
    client.start()
    try:
        ready = client.wait(client.request("hello"), timeout=60)
        (described,) = (m for m in ready.header["methods"] if m["name"] == "toy-threshold")
        assert {each["name"] for each in described["options"]} == {"bias", "threshold", "invert"}
        learned = client.wait(
            client.learn([case_of(1), case_of(2)], return_task=True, method="toy-threshold"),
            timeout=120,
        )
        assert learned.name == "done", learned.header
        segmented = client.segment(
            target.volume, task=learned.arrays["task"], options={"invert": True}
        )

        def keep(event: Event) -> None:
            if event.name == "slice":
                found[event.header["index"]] = event.arrays["labels"]

        assert client.wait(segmented, keep, timeout=120).name == "done"
    finally:
        client.close()
    np.testing.assert_array_equal(found, 1 - target.labels)
