"""Corrections teach: in a session, on the command line and through a worker."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch
from command_line import ROOT, refused, run, succeed
from toy_package import case_of

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.support import fit_structures
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.worker import payloads
from OFLSAM2Core.worker.client import Event, WorkerClient


def _dim(seed: int) -> SupportCase:
    """A case as the support's, but everything is 15 darker: nothing is found in it."""
    case = case_of(seed)
    return replace(case, volume=replace(case.volume, array=case.volume.array - 15))


@pytest.fixture
def session(package: Path) -> FewShotSession:
    return FewShotSession(method="toy-threshold")


@pytest.fixture
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([case_of(1), case_of(2)])


def test_a_corrected_slice_teaches_the_others_and_stays_as_it_is(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = _dim(3)
    opened = session.open(case.volume, task)
    found = np.zeros(case.labels.shape, np.uint8)
    for result in opened.slices():
        found[result.index_expression] = result.labels
    assert not found.any()
    corrected = case.labels.copy()
    corrected[2, 6, 7] = 0  # Which no method would say.
    for result in opened.correct(Corrections.from_slices(corrected, 0, [2])):
        found[result.index_expression] = result.labels
        if result.index == 2:
            assert (result.confidence == 255).all()
    np.testing.assert_array_equal(found, corrected)


def test_a_task_keeps_what_corrections_taught_and_the_first_one_does_not_change(
    session: FewShotSession, task: LearnedTask
) -> None:
    case, other = _dim(3), _dim(4)
    opened = session.open(case.volume, task)
    list(opened.correct(Corrections.from_slices(case.labels, 0, [2])))
    taught = opened.task()

    def labelled(by: LearnedTask) -> int:
        return sum(int((r.labels > 0).sum()) for r in session.segment(other.volume, by))

    assert labelled(task) == 0 and labelled(taught) == (other.labels > 0).sum()


def test_what_differs_from_the_result_is_known_whether_painted_or_erased() -> None:
    result = np.array([[[1, 1, 0, 0]]], np.uint8)
    corrections = Corrections.from_difference(result, np.array([[[1, 0, 0, 2]]], np.uint8))
    np.testing.assert_array_equal(corrections.known[0, 0], [False, True, False, True])
    assert Corrections.from_slices(np.zeros((4, 2, 2)), 0, [1, 3]).whole_slices(0) == [1, 3]


def test_corrections_that_cannot_be_are_refused_when_they_are_given(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = case_of(3)
    opened = session.open(case.volume, task)
    with pytest.raises(InputError, match="(6, 20, 24)"):
        opened.correct(Corrections.from_slices(case.labels[:4], 0, [2]))
    with pytest.raises(InputError, match="Nothing was corrected"):
        opened.correct(Corrections.from_difference(case.labels, case.labels))
    with pytest.raises(InputError, match="no structure of the learned task: 7"):
        opened.correct(Corrections.from_slices(case.labels * 7, 0, [2]))
    with pytest.raises(InputError, match="mask of what"):
        Corrections(case.labels, np.ones((2, 2, 2), bool))


def test_a_reviewed_case_makes_the_task_grow(session: FewShotSession, task: LearnedTask) -> None:
    grown = session.add_case(task, _dim(3))
    from_nothing = session.learn([case_of(1), case_of(2), _dim(3)])
    np.testing.assert_allclose(
        grown.state.tensors["intensities"], from_nothing.state.tensors["intensities"], rtol=0.05
    )
    stranger = replace(case_of(3), structures=(Structure("ball", 1),))
    with pytest.raises(InputError, match="no structure of the learned task"):
        session.add_case(task, stranger)


def test_structures_of_a_corrected_segmentation_are_matched_by_name(task: LearnedTask) -> None:
    case = case_of(3)
    two = (Structure("dirt", 1), Structure("BOX", 4))
    other = replace(case, labels=case.labels * 4, structures=two)
    np.testing.assert_array_equal(fit_structures(other, task.structures).labels, case.labels)
    dirty = other.labels.copy()
    dirty[0, 0, 0] = 1
    with pytest.raises(InputError, match="'dirt'"):
        fit_structures(replace(other, labels=dirty), task.structures, no_others=True)


def test_the_command_line_learns_from_a_corrected_result(
    package: Path, task: LearnedTask, tmp_path: Path
) -> None:
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    case = _dim(3)
    file, taught, out = (tmp_path / n for n in ("box.oflsam2", "new.oflsam2", "out.seg.nrrd"))
    task.save(file)
    image, result, corrected = (tmp_path / f"{n}.nii.gz" for n in ("image", "found", "right"))
    _write(image, case.volume.array)
    succeed("segment", "--task", file, image, "--out", tmp_path / "f.seg.nrrd", "--labelmap",
            result, **path)  # fmt: skip
    right = np.zeros(case.labels.shape, np.uint8)
    right[3] = case.labels[3]
    _write(corrected, right)
    words = ["refine", image, "--task", file, "--result", tmp_path / "f.seg.nrrd", "--corrected",
             corrected, "--out", out]  # fmt: skip
    refused(run(*words, "--slices", "3,9", **path), "9", "0 to 5")
    refused(run(*words, "--slices", "three", **path), "--slices three")
    assert not out.exists()
    succeed(*words, "--slices", "3", "--task-out", taught, **path)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    np.testing.assert_array_equal(found, case.labels)
    assert LearnedTask.load(taught).structures == task.structures
    refused(run(*words, **path), "out.seg.nrrd")  # Nothing is overwritten without --overwrite.


def test_the_command_line_adds_a_reviewed_case_to_a_task(
    package: Path, session: FewShotSession, task: LearnedTask, tmp_path: Path
) -> None:
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    case = _dim(3)
    image, labels = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    _write(image, case.volume.array)
    _write(labels, case.labels)
    table = tmp_path / "labels.json"
    table.write_text('{"1": "box"}')
    file, out = task.save(tmp_path / "box.oflsam2"), tmp_path / "grown.oflsam2"
    printed = succeed("learn", "--task", file, "--support", f"{image}={labels}", "--labels", table,
                   "--out", out, **path)  # fmt: skip
    assert "1 more case" in printed
    torch.testing.assert_close(
        LearnedTask.load(out).state.tensors, session.add_case(task, case).state.tensors
    )


def test_a_worker_keeps_a_volume_for_corrections_and_says_so_where_it_does_not(
    package: Path, task: LearnedTask, tmp_path: Path
) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    case = _dim(3)
    content = np.fromfile(task.save(tmp_path / "box.oflsam2"), np.uint8)
    corrections = Corrections.from_slices(case.labels, 0, [2])
    client = WorkerClient(env=env)
    client.start()
    try:
        number = client.segment(case.volume, task=content, keep=True)
        assert client.wait(number, timeout=120).name == "done"
        found, done = _slices(client, client.correct(corrections, number, return_task=True), case)
        assert done.name == "done", done.header
        np.testing.assert_array_equal(found, case.labels)
        (tmp_path / "taught.oflsam2").write_bytes(done.arrays["task"].tobytes())
        assert LearnedTask.load(tmp_path / "taught.oflsam2").method == "toy-threshold"
        forgotten = client.segment(case.volume, task=content)
        client.wait(forgotten, timeout=120)
        failed = client.wait(client.correct(corrections, forgotten), timeout=120)
        assert failed.name == "failed" and "no longer keeps" in failed.header["message"]
        grown = client.wait(client.add_case(_dim(4), content), timeout=120)
        assert grown.name == "done" and len(grown.arrays["task"]) > 100
    finally:
        client.close()


def test_another_patients_result_is_refused_though_its_grid_is_the_same(
    package: Path, task: LearnedTask, tmp_path: Path
) -> None:
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    file = task.save(tmp_path / "box.oflsam2")
    one, other = tmp_path / "one.nii.gz", tmp_path / "other.nii.gz"
    _write(one, case_of(3).volume.array)
    _write(other, case_of(4).volume.array)
    result, labelmap = tmp_path / "one.seg.nrrd", tmp_path / "one_labels.nii.gz"
    succeed("segment", "--task", file, one, "--out", result, "--labelmap", labelmap, **path)
    corrected, out = tmp_path / "corrected.nii.gz", tmp_path / "out.seg.nrrd"
    right = case_of(3).labels
    right[3] = 0
    _write(corrected, right)  # By a program that does not say of which image.

    def refine(image: Path, result: Path, corrected: Path = corrected, *more: str) -> list[object]:
        return ["refine", image, "--task", file, "--result", result, "--corrected", corrected,
                "--out", out, *more]  # fmt: skip

    for made in (result, labelmap):
        refused(run(*refine(other, made), **path), f"'{made}' was made of another image", "other")
    refused(run(*refine(one, corrected), **path), "does not say of which image", "--unknown-image")
    assert not out.exists()
    succeed(*refine(one, result), **path)
    printed = run(*refine(other, result, corrected, "--unknown-image", "--overwrite"), **path)
    assert printed.returncode == 0 and "made of another image" in printed.stderr
    shifted = tmp_path / "shifted.nii.gz"
    _write(shifted, case_of(3).volume.array, origin=(0.4, 0, 0))
    out.unlink()
    refused(run(*refine(shifted, result), **path), "another grid", "origin")


def test_a_worker_refuses_corrections_of_another_image(
    package: Path, task: LearnedTask, tmp_path: Path
) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    content = np.fromfile(task.save(tmp_path / "box.oflsam2"), np.uint8)
    one, other = case_of(3), case_of(4)
    client = WorkerClient(env=env)
    client.start()
    try:
        number = client.segment(one.volume, task=content)
        image = client.wait(number, timeout=120).header["image"]
        number = client.segment(other.volume, task=content, keep=True)
        client.wait(number, timeout=120)
        corrections = replace(Corrections.from_slices(one.labels, 0, [2]), image=image)
        failed = client.wait(client.correct(corrections, number), timeout=120)
        assert failed.name == "failed" and "another image" in failed.header["message"]
        fields, arrays = payloads.volume_to(one.volume)
        of_image, labels = payloads.corrections_to(corrections)
        arrays = {**arrays, **labels, "task": content}
        sent = client.request("correct", {**fields, **of_image}, arrays)
        assert client.wait(sent, timeout=120).name == "done"
    finally:
        client.close()


def _slices(client: WorkerClient, number: int, case: SupportCase) -> tuple[npt.NDArray, Event]:
    found = np.zeros(case.labels.shape, np.uint8)

    def keep(event: Event) -> None:
        if event.name == "slice":
            found[event.header["index"]] = event.arrays["labels"]

    return found, client.wait(number, keep, timeout=120)


def _write(path: Path, array: npt.NDArray, origin: tuple[float, float, float] = (0, 0, 0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))
