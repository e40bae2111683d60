"""Locate, predict, fuse: on phantoms and a toy encoder, the whole of it."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantom_patients import BRIGHT, DARK, in_larger, patient
from toy_backbone import ToyBackbone

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession

QUICK = {"training_steps": 150, "encoded_slices": 40}


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    return FewShotSession(ToyBackbone(), method="ofl-sam2-atlas", options=QUICK)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([patient(seed) for seed in (1, 2, 3)])


def segment(session: FewShotSession, task: LearnedTask, volume: Volume) -> SegmentationBuffer:
    found = SegmentationBuffer(volume)
    for result in session.segment(volume, task):
        found.add(result)
    return found


def overlaps(found: SegmentationBuffer, case: SupportCase) -> list[float]:
    return [dice(case.labels == s.label, found.labels == s.label) for s in case.structures]


def test_structures_of_another_patient_are_found(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = patient(7)
    assert min(overlaps(segment(session, task, case.volume), case)) > 0.85


def test_a_larger_field_of_view_changes_little(session: FewShotSession, task: LearnedTask) -> None:
    case = patient(7)
    large = in_larger(case, (15, 50, 40), (52, 144, 132))
    before = overlaps(segment(session, task, case.volume), case)
    after = overlaps(segment(session, task, large.volume), large)
    assert min(a - b for a, b in zip(after, before, strict=True)) > -0.05


def test_a_volume_cropped_to_half_of_the_structures_is_segmented_as_far_as_it_goes(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = patient(7)
    half = SupportCase(
        Volume(case.volume.array[10:], case.volume.affine, name="half"),
        case.labels[10:],
        case.structures,
    )
    assert min(overlaps(segment(session, task, half.volume), half)) > 0.75


def test_every_slice_is_encoded_once(session: FewShotSession, task: LearnedTask) -> None:
    seen = session.backbone.encoded
    seen.clear()
    volume = patient(8).volume
    results = [result.index for result in session.segment(volume, task)]
    assert max(seen.values()) == 1
    assert sum(seen.values()) <= len(volume.array)
    assert set(results) == set(range(len(volume.array)))


def test_a_structure_that_a_patient_does_not_have_is_not_predicted_and_named(
    session: FewShotSession, task: LearnedTask, caplog: pytest.LogCaptureFixture
) -> None:
    case = patient(11, dark=False)
    with caplog.at_level(logging.WARNING):
        found = segment(session, task, case.volume)
    assert not (found.labels == DARK.label).any()
    assert dice(case.labels == BRIGHT.label, found.labels == BRIGHT.label) > 0.85
    assert DARK.name in caplog.text


@pytest.mark.slow
def test_two_supports_are_enough_and_one_is_possible(session: FewShotSession) -> None:
    case = patient(7)
    two = session.learn([patient(seed) for seed in (1, 2)])
    assert min(overlaps(segment(session, two, case.volume), case)) > 0.8
    one = session.learn([patient(1)])
    assert min(overlaps(segment(session, one, case.volume), case)) > 0.5


def test_a_task_segments_alike_after_it_was_written_and_read(
    session: FewShotSession, task: LearnedTask, tmp_path: Path
) -> None:
    volume = patient(7).volume
    read = LearnedTask.load(task.save(tmp_path / "task.oflsam2"))
    before, after = (segment(session, each, volume) for each in (task, read))
    assert np.array_equal(before.labels, after.labels)
    assert np.array_equal(before.confidence, after.confidence)


def test_a_task_of_another_version_or_with_a_part_missing_is_refused(
    session: FewShotSession, task: LearnedTask
) -> None:
    volume = patient(7).volume
    newer = replace(task, state=replace(task.state, version=99))
    with pytest.raises(TaskError, match="another version"):
        session.open(volume, newer)
    tensors = {n: t for n, t in task.state.tensors.items() if n != "mapping.tau"}
    with pytest.raises(TaskError, match="lacks a part"):
        session.open(volume, replace(task, state=replace(task.state, tensors=tensors)))


def test_results_do_not_depend_on_how_voxels_are_stored(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = patient(7)
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = case.labels.shape[2] - 1
    mirrored = Volume(
        case.volume.array[:, :, ::-1], case.volume.affine @ flip, name="stored mirrored"
    )
    straight = segment(session, task, case.volume).labels
    assert np.array_equal(segment(session, task, mirrored).labels[:, :, ::-1], straight)


@pytest.mark.slow
def test_alike_parts_that_lie_anywhere_are_found_without_a_place(session: FewShotSession) -> None:
    def tile(seed: int) -> SupportCase:
        rng = np.random.default_rng(seed)
        grid = np.indices((14, 40, 40)).astype(float)
        labels = np.zeros((14, 40, 40), np.uint8)
        for _ in range(6):
            centre = rng.uniform((2, 4, 4), (12, 36, 36))
            away = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))
            labels[away < rng.uniform(3.0, 4.5) ** 2] = 1
        image = 100 * labels + rng.normal(0, 12, labels.shape)
        return SupportCase(Volume(image.astype(np.float32), name=f"tile {seed}"), labels, (BRIGHT,))

    task = session.learn([tile(seed) for seed in (1, 2, 3)])
    case = tile(4)
    assert min(overlaps(segment(session, task, case.volume), case)) > 0.85


@pytest.mark.slow
def test_thirty_support_cases_take_less_than_ten_times_as_long_as_three() -> None:
    few = {"training_steps": 20, "encoded_slices": 40}
    seconds = []
    for count in (3, 30):
        session = FewShotSession(ToyBackbone(), method="ofl-sam2-atlas", options=few)
        cases = [patient(seed) for seed in range(count)]
        before = time.process_time()
        session.learn(cases)
        seconds.append(time.process_time() - before)
    assert seconds[1] < 10 * seconds[0]
