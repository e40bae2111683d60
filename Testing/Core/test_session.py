"""The core from outside, on real volumes: learn, segment, save, load, refuse.

With LiteMedSAM where the result matters; with a small SAM2 of random weights where only the way
matters (a slice takes it 5 ms).
"""

from __future__ import annotations

import copy
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures
from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import Cancelled, InputError, ResourceError, TaskError
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession

QUICK = {
    "training_steps": 8,
    "encoded_slices": 16,
    "slicing_axis": "axial",
    "atlas_prior": False,
}


def _case(name: str, slices: slice = slice(None)) -> SupportCase:
    """A sample case, or some of its axial slices."""
    case = sample_data().read_case(name)
    affine = case.volume.affine.copy()
    affine[:3, 3] = case.volume.affine[:3, :3] @ [0, 0, slices.start or 0] + affine[:3, 3]
    volume = Volume(case.volume.array[slices], affine, name)
    return SupportCase(volume, case.labels[slices], case.structures)


@pytest.fixture(scope="module")
def support() -> list[SupportCase]:
    return [_case(f"hippocampus_00{n}", slice(12, 20)) for n in (1, 3)]


@pytest.fixture(scope="module")
def target() -> SupportCase:
    return _case("hippocampus_006", slice(12, 18))


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    return FewShotSession(Sam2Backbone.random(seed=3, image_size=128), options=QUICK)


@pytest.fixture(scope="module")
def task(session: FewShotSession, support: list[SupportCase]) -> LearnedTask:
    return session.learn(support)


def _segment(session: FewShotSession, volume: Volume, task: LearnedTask) -> npt.NDArray:
    """Labels and confidence, (2, K, J, I)."""
    found = np.full((2, *volume.grid_shape), 255, np.uint8)
    for result in session.segment(volume, task):
        found[0][result.index_expression] = result.labels
        found[1][result.index_expression] = result.confidence
    return found


@pytest.mark.slow
def test_three_labelled_volumes_segment_a_fourth() -> None:
    """The main job, as a user does it, on whole volumes with the default backbone."""
    options = {"training_steps": 120}
    session = FewShotSession("litemedsam", "cpu", preset="fast", options=options)
    task = session.learn([_case(f"hippocampus_00{n}") for n in (1, 3, 4)])
    truth = _case("hippocampus_006")
    labels, confidence = _segment(session, truth.volume, task)
    for structure in truth.structures:
        mine, theirs = labels == structure.label, truth.labels == structure.label
        assert 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.55, structure.name
    wrong = labels != truth.labels
    assert confidence[wrong].mean() < confidence[~wrong].mean() - 25


def test_every_slice_is_reported_with_a_score_for_each_structure_and_again_once_all_are_known(
    session: FewShotSession, task: LearnedTask, target: SupportCase
) -> None:
    results = list(session.segment(target.volume, task))
    assert sorted(result.index for result in results[:6]) == list(range(6))
    assert [result.index for result in results[6:]] == list(range(6))
    assert [result.revision for result in results] == 6 * [0] + 6 * [1]
    for result in results:
        assert isinstance(result, SliceResult) and result.axis == 0
        assert result.labels.shape == result.confidence.shape == target.volume.grid_shape[1:]
        assert set(result.scores) == {structure.name for structure in task.structures}
        assert all(0 <= score <= 1 for score in result.scores.values())
        assert set(np.unique(result.labels)) <= {0, 1, 2}


def test_the_same_seed_learns_the_same_task(
    session: FewShotSession, support: list[SupportCase], task: LearnedTask
) -> None:
    again = session.learn(support)
    assert again.state.tensors.keys() == task.state.tensors.keys()
    for name, tensor in task.state.tensors.items():
        # Ends of structures that no support case shows are NaN.
        torch.testing.assert_close(
            again.state.tensors[name], tensor, atol=1e-5, rtol=1e-4, equal_nan=True
        )


def test_a_task_that_was_saved_and_loaded_gives_identical_labels(
    session: FewShotSession, task: LearnedTask, target: SupportCase, tmp_path: Path
) -> None:
    loaded = LearnedTask.load(task.save(tmp_path / "task.oflsam2"))
    assert loaded.structures == task.structures and loaded.options == task.options
    before = _segment(session, target.volume, task)
    np.testing.assert_array_equal(_segment(session, target.volume, loaded), before)


def test_a_volume_is_encoded_in_the_precision_that_its_task_was_learned_in(
    session: FewShotSession,
    task: LearnedTask,
    target: SupportCase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its features would be a little apart from the support's otherwise."""
    quick = copy.copy(session.backbone)
    encoded: list[str] = []

    def encode(backbone: Backbone, images: Tensor) -> ImageFeatures:
        encoded.append(backbone.precision)
        return real(backbone, images)

    def with_precision(backbone: Backbone, precision: str) -> Backbone:
        other = copy.copy(backbone)
        other.precision = precision
        return other

    real = Sam2Backbone.encode
    monkeypatch.setattr(Sam2Backbone, "encode", encode)
    monkeypatch.setattr(Sam2Backbone, "with_precision", with_precision)
    quick.precision = "bfloat16"
    other = FewShotSession(quick, options=session.changes.values)
    assert task.backbone_precision == "float32"
    list(other.segment(target.volume, task))
    assert set(encoded) == {"float32"}
    encoded.clear()
    learned = other.learn([target])
    assert learned.backbone_precision == "bfloat16"
    list(session.segment(target.volume, learned))
    assert set(encoded) == {"bfloat16"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(1, -1, 1), (-1, -1, -1)])
def test_a_volume_stored_another_way_gets_the_same_labels_in_world_space(
    session: FewShotSession,
    task: LearnedTask,
    target: SupportCase,
    order: tuple[int, int, int],
    flips: tuple[int, int, int],
) -> None:
    flip = tuple(slice(None, None, step) for step in flips)
    array = target.volume.array.transpose(order)[flip]
    columns, origin = target.volume.affine[:3, :3], target.volume.affine[:3, 3].copy()
    stored = columns[:, ::-1][:, list(order)]  # Columns by numpy axis of the new array.
    for axis, step in enumerate(flips):
        if step < 0:
            origin = origin + stored[:, axis] * (array.shape[axis] - 1)
            stored[:, axis] *= -1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = stored[:, ::-1], origin
    turned = _segment(session, Volume(array, affine, "turned"), task)
    expected = _segment(session, target.volume, task)
    for found, wanted in zip(turned, expected, strict=True):
        np.testing.assert_array_equal(found, wanted.transpose(order)[flip])


def test_slices_finished_before_a_stop_stay_with_the_caller(
    session: FewShotSession, task: LearnedTask, target: SupportCase
) -> None:
    def stop_after_two(progress: Progress) -> None:
        if progress.stage == "segment" and progress.done == 2:
            raise Cancelled

    arrived = []
    with pytest.raises(Cancelled):
        arrived.extend(session.segment(target.volume, task, stop_after_two))
    arrived = []
    results = session.segment(target.volume, task)
    arrived.append(next(results))
    results.close()
    assert arrived[0].labels.shape == target.volume.grid_shape[1:]


def test_learning_stops_when_the_caller_says_so(
    session: FewShotSession, support: list[SupportCase]
) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "learn" and progress.message.startswith("loss"):
            raise Cancelled

    with pytest.raises(Cancelled):
        session.learn(support, stop)


def test_one_support_case_is_enough_to_learn_with_a_warning(
    session: FewShotSession, support: list[SupportCase], caplog: pytest.LogCaptureFixture
) -> None:
    assert session.learn(support[:1]).structures == support[0].structures
    assert "Only one support case" in caplog.text


def test_a_task_and_its_file_hold_no_name_of_a_case_file_or_folder(
    session: FewShotSession, support: list[SupportCase], tmp_path: Path
) -> None:
    named = [
        replace(
            case,
            volume=replace(
                case.volume, name=f"DOE^JANE_OF_NOWHERE {n}", source=Path("/DOE_JANE_OF_NOWHERE")
            ),
        )
        for n, case in enumerate(support)
    ]
    learned = session.learn(named)
    path = learned.save(tmp_path / "task.oflsam2")
    with zipfile.ZipFile(path) as archive:
        contents = [path.read_bytes(), *(archive.read(name) for name in archive.namelist())]
    for content in [*contents, repr(learned.summary()).encode()]:
        assert b"_OF_NOWHERE" not in content


def test_frames_of_a_video_are_learned_and_segmented_as_slices(session: FewShotSession) -> None:
    rows, columns = np.mgrid[:48, :64]
    frames, masks = [], []
    for step in range(6):
        disc = (rows - 24) ** 2 + (columns - 16 - 5 * step) ** 2 < 81
        frames.append(np.where(disc[..., None], (220, 60, 40), (40, 70, 90)).astype(np.uint8))
        masks.append(disc.astype(np.uint8))
    video = Volume(np.stack(frames), name="video")
    case = SupportCase(video, np.stack(masks), (Structure("disc", 1),))
    free = FewShotSession(session.backbone, options={"training_steps": 8})
    task = free.learn([case])
    assert task.method == "ofl-sam2" and task.state.summary["slicing axis"] == "frame"
    assert sorted(result.index for result in free.segment(video, task)) == list(range(6))
    with pytest.raises(InputError, match="volume"):  # At the call, before a slice is asked for.
        free.segment(Volume(np.zeros((6, 48, 64), np.int16)), task)


def test_a_structure_missing_in_one_case_is_named_and_may_be_allowed(
    session: FewShotSession, support: list[SupportCase]
) -> None:
    labels = support[1].labels.copy()
    labels[labels == 2] = 0
    partial = [support[0], replace(support[1], labels=labels)]
    with pytest.raises(InputError, match="posterior.*hippocampus_003"):
        session.learn(partial)
    assert len(session.learn(partial, allow_missing=True).structures) == 2


def test_structures_are_matched_by_name_whatever_their_label_values(
    session: FewShotSession, support: list[SupportCase], task: LearnedTask
) -> None:
    swapped = np.array([0, 2, 1], np.uint8)[support[1].labels]
    structures = tuple(replace(s, label=3 - s.label) for s in support[1].structures)
    other = SupportCase(support[1].volume, swapped, structures)
    again = session.learn([support[0], other])
    assert again.structures == task.structures
    torch.testing.assert_close(
        again.state.tensors["mapping.tau"], task.state.tensors["mapping.tau"]
    )


def test_structures_of_one_case_are_kept_apart_though_their_code_is_the_same(
    session: FewShotSession, support: list[SupportCase]
) -> None:
    code = "Anatomy~SCT^123037004^Anatomy~SCT^64033007^Kidney~^^"
    cases = [
        replace(c, structures=tuple(replace(s, terminology=code) for s in c.structures))
        for c in support
    ]
    names = [s.name for s in support[0].structures]
    assert [s.name for s in session.learn(cases).structures] == names


def test_learning_from_nothing_is_refused(session: FewShotSession) -> None:
    with pytest.raises(InputError, match="no support case"):
        session.learn([])


def test_a_task_of_another_backbone_or_other_weights_is_refused(
    session: FewShotSession, task: LearnedTask, target: SupportCase
) -> None:
    other = FewShotSession(Sam2Backbone.random(seed=4, image_size=128), options=QUICK)
    with pytest.raises(TaskError, match="other weights"):
        list(other.segment(target.volume, task))
    with pytest.raises(TaskError, match="litemedsam"):
        list(session.segment(target.volume, replace(task, backbone="litemedsam")))


def test_too_little_memory_is_found_out_before_a_slice_is_learned_from(
    session: FewShotSession, support: list[SupportCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = psutil.virtual_memory()._replace(available=1_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    seen: list[Progress] = []
    with pytest.raises(ResourceError, match=r"needs about \d\.\d GB of memory; 1\.0 GB are free"):
        session.learn(support, on_progress=seen.append)
    assert not any(p.done for p in seen if p.stage == "encode")
