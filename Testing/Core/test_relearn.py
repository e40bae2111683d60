"""Locate, predict, fuse learns: from corrected slices of a volume, and from one more case."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
import torch
from command_line import ROOT, succeed
from normal_equations import equations_of
from phantom_patients import BRIGHT, patient
from toy_backbone import ToyBackbone

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.ofl_sam2_atlas.config import SUPPORT_AS
from OFLSAM2Core.methods.ofl_sam2_atlas.relearn import added
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.worker.client import Event, WorkerClient

QUICK = {"training_steps": 40, "encoded_slices": 24}
CORRECTED = [8, 12]


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    return FewShotSession(ToyBackbone(), method="ofl-sam2-atlas", options=QUICK)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([patient(seed) for seed in (1, 2)])


def faint(seed: int) -> SupportCase:
    """A patient whose bright organ is hardly brighter than what is around it."""
    case = patient(seed)
    array = case.volume.array.copy()
    array[case.labels == BRIGHT.label] -= 85
    return replace(case, volume=replace(case.volume, array=array))


def labels_of(results: Iterable[SliceResult], case: SupportCase) -> npt.NDArray[np.uint8]:
    found = np.zeros(case.labels.shape, np.uint8)
    for result in results:
        found[result.index_expression] = result.labels
    return found


def wrong_elsewhere(found: npt.NDArray, case: SupportCase) -> int:
    rest = [index for index in range(len(case.labels)) if index not in CORRECTED]
    return int((found[rest] != case.labels[rest]).sum())


def test_two_corrected_slices_put_others_right_and_stay_as_they_are(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = faint(7)
    opened = session.open(case.volume, task)
    before = labels_of(opened.slices(), case)
    session.backbone.encoded.clear()
    odd = case.labels.copy()
    odd[8, 2:4, 2:4] = BRIGHT.label  # Which the method would never say.
    first = list(opened.correct(Corrections.from_slices(odd, 0, CORRECTED)))
    assert min(result.revision for result in first) > 1
    after = labels_of(first, case)
    assert np.array_equal(after[CORRECTED], odd[CORRECTED])
    assert wrong_elsewhere(after, case) < 0.87 * wrong_elsewhere(before, case)

    # A second round knows the first one, though it is told of one voxel only.
    known = np.zeros(case.labels.shape, bool)
    known[10, 24, 24] = True
    second = labels_of(opened.correct(Corrections(case.labels, known)), case)
    assert np.array_equal(second[CORRECTED], odd[CORRECTED])
    assert second[10, 24, 24] == case.labels[10, 24, 24]
    assert wrong_elsewhere(second, case) < 0.87 * wrong_elsewhere(before, case)
    assert not session.backbone.encoded  # All by features that were kept.


def test_a_volume_that_was_not_segmented_before_comes_as_a_whole_and_alike(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = faint(7)
    corrections = Corrections.from_slices(case.labels, 0, CORRECTED)
    results = list(session.open(case.volume, task).correct(corrections))
    assert {result.index for result in results} == set(range(len(case.labels)))
    in_turn = session.open(case.volume, task)
    list(in_turn.slices())
    assert np.array_equal(labels_of(in_turn.correct(corrections), case), labels_of(results, case))


def test_a_task_remembers_what_was_taught_when_it_is_read_again(
    session: FewShotSession, task: LearnedTask, tmp_path: Path
) -> None:
    case, other = faint(7), faint(9)
    opened = session.open(case.volume, task)
    list(opened.correct(Corrections.from_slices(case.labels, 0, CORRECTED)))
    taught = opened.task()
    read = LearnedTask.load(taught.save(tmp_path / "taught.oflsam2"))
    plain, now, after_reading = (
        labels_of(session.segment(other.volume, each), other) for each in (task, taught, read)
    )
    assert np.array_equal(now, after_reading)
    truth = other.labels == BRIGHT.label
    assert dice(truth, now == BRIGHT.label) > dice(truth, plain == BRIGHT.label)


def test_a_single_corrected_slice_teaches_the_mapping_network_and_leaves_the_head(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = faint(7)
    opened = session.open(case.volume, task)
    for _ in opened.correct(Corrections.from_slices(case.labels, 0, CORRECTED[:1])):
        pass
    learned, before = opened.task().state.tensors, task.state.tensors
    changed = {name for name, own in before.items() if not torch.equal(own, learned[name])}
    assert "mapping.tau" in changed
    assert not any(name.startswith("head.") for name in changed)


def test_corrections_that_cannot_be_are_refused(session: FewShotSession, task: LearnedTask) -> None:
    case = faint(7)
    opened = session.open(case.volume, task)
    with pytest.raises(InputError, match="the volume"):
        opened.correct(Corrections.from_slices(case.labels[:9], 0, [8]))
    with pytest.raises(InputError, match="no structure of the learned task: 9"):
        opened.correct(Corrections.from_slices(case.labels * 0 + 9, 0, [8]))


def test_equations_of_corrected_slices_add_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 50, 6, generator=generator, dtype=torch.float64)
    wanted = torch.randn(4, 2, 3, 50, generator=generator, dtype=torch.float64)
    each = [equations_of(r, w) for r, w in zip(rows, wanted, strict=True)]
    # A support, a whole slice, one without the second structure, and one of which a half is known.
    weights = torch.tensor(
        [[SUPPORT_AS, 1.0, 1.0, 0.5], [SUPPORT_AS, 1.0, 0.0, 0.5]], dtype=torch.float64
    )
    together = added(each[0], each[1:], list(weights.T[1:])).closed_form(0.1)
    for n in range(2):
        scale = (weights[n] / weights[n].sum() / 50).sqrt()[:, None, None]
        stacked = (rows * scale).flatten(0, 1)
        aims = (wanted[:, n].transpose(1, 2) * scale).flatten(0, 1)
        # Ridge regression on all samples at once: 0.1 times each unknown is one more sample.
        samples = torch.cat([stacked, 0.1 * torch.eye(6, dtype=torch.float64)])
        right = torch.cat([aims, torch.zeros(6, 3, dtype=torch.float64)])
        torch.testing.assert_close(together[n], torch.linalg.lstsq(samples, right).solution)


def test_a_reviewed_case_joins_what_was_learned(
    session: FewShotSession, task: LearnedTask, tmp_path: Path
) -> None:
    case, other = faint(7), faint(9)
    grown = session.add_case(task, case)
    assert len(grown.state.tensors["atlases.images"]) == 3
    assert len(task.state.tensors["atlases.images"]) == 2
    read = LearnedTask.load(grown.save(tmp_path / "grown.oflsam2"))
    plain, now = (labels_of(session.segment(other.volume, each), other) for each in (task, read))
    truth = other.labels == BRIGHT.label
    assert dice(truth, now == BRIGHT.label) > dice(truth, plain == BRIGHT.label)
    again = session.add_case(read, patient(3))
    assert len(again.state.tensors["atlases.images"]) == 4
    stranger = replace(case, structures=(Structure("ball", 1), Structure("cube", 2)))
    with pytest.raises(InputError, match="no structure of the learned task"):
        session.add_case(task, stranger)


@pytest.mark.slow
def test_the_command_line_and_a_worker_correct_and_add_alike(tmp_path: Path) -> None:
    few = {"training_steps": 10, "encoded_slices": 12}
    session = FewShotSession(device="cpu", method="ofl-sam2-atlas", options=few)
    task = session.learn([patient(seed) for seed in (1, 2)])
    file = task.save(tmp_path / "task.oflsam2")
    case = faint(7)
    opened = session.open(case.volume, task)
    before = labels_of(opened.slices(), case)
    corrections = Corrections.from_slices(case.labels, 0, CORRECTED)
    expected = labels_of(opened.correct(corrections), case)

    image, result, corrected = (tmp_path / f"{n}.nii.gz" for n in ("image", "found", "right"))
    write(image, case.volume.array, case)
    write(result, before, case)
    by_hand = before.copy()
    by_hand[CORRECTED] = case.labels[CORRECTED]
    write(corrected, by_hand, case)
    taught, grown = tmp_path / "taught.oflsam2", tmp_path / "grown.oflsam2"
    succeed("refine", image, "--task", file, "--result", result, "--corrected", corrected,
            "--slices", "8,12", "--out", tmp_path / "out.seg.nrrd", "--task-out", taught,
            "--device", "cpu", "--unknown-image")  # fmt: skip
    out = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.seg.nrrd")))
    assert np.mean(out == expected) > 0.999
    labels = tmp_path / "labels.nii.gz"
    write(labels, case.labels, case)
    succeed("learn", "--task", taught, "--support", f"{image}={labels}", "--out", grown,
            "--device", "cpu")  # fmt: skip
    assert len(LearnedTask.load(grown).state.tensors["atlases.images"]) == 3

    client = WorkerClient(env={**os.environ, "PYTHONPATH": str(ROOT)})
    client.start()
    try:
        content = np.fromfile(file, np.uint8)
        number = client.segment(case.volume, task=content, keep=True, device="cpu")
        assert client.wait(number, timeout=300).name == "done"
        found = np.zeros(case.labels.shape, np.uint8)

        def take(event: Event) -> None:
            if event.name == "slice":
                found[event.header["index"]] = event.arrays["labels"]

        done = client.wait(client.correct(corrections, number, return_task=True), take, 300)
        assert done.name == "done" and np.mean(found == expected) > 0.999
        more = client.wait(client.add_case(case, done.arrays["task"], device="cpu"), timeout=300)
        (tmp_path / "more.oflsam2").write_bytes(more.arrays["task"].tobytes())
        read = LearnedTask.load(tmp_path / "more.oflsam2")
        assert len(read.state.tensors["atlases.images"]) == 3
    finally:
        client.close()


def write(path: Path, array: npt.NDArray, case: SupportCase) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(case.volume.spacing)
    # Phantoms lie along right, anterior and superior, files along left, posterior and superior.
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin([float(n) for n in case.volume.affine[:3, 3] * (-1, -1, 1)])
    sitk.WriteImage(image, str(path))
