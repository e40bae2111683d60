"""Locate, predict, fuse learns: from corrected slices of a volume, and from one more case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from phantom_patients import BRIGHT, patient
from toy_backbone import ToyBackbone

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.common.mapping_network import NormalEquations
from OFLSAM2Core.methods.locate_predict_fuse.relearn import added
from OFLSAM2Core.session import FewShotSession

SUPPORT = {"training_steps": 60, "encoded_slices": 24}
CORRECTED = [8, 12]


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    return FewShotSession(ToyBackbone(), method="locate-predict-fuse", options=SUPPORT)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([patient(seed) for seed in (1, 2)])


def faint(seed: int) -> SupportCase:
    """A patient whose bright organ is hardly brighter than what is around it, unlike the
    support's."""
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
    odd = case.labels.copy()
    odd[8, 2:4, 2:4] = BRIGHT.label  # Which the method would never say.
    first = list(opened.correct(Corrections.from_slices(odd, 0, CORRECTED)))
    assert min(result.revision for result in first) > 1
    after = labels_of(first, case)
    assert np.array_equal(after[CORRECTED], odd[CORRECTED])
    assert wrong_elsewhere(after, case) < 0.7 * wrong_elsewhere(before, case)

    # A second round knows the first one, though it is only told of one voxel more.
    known = np.zeros(case.labels.shape, bool)
    known[10, 24, 24] = True
    second = labels_of(opened.correct(Corrections(case.labels, known)), case)
    assert np.array_equal(second[CORRECTED], odd[CORRECTED])
    assert second[10, 24, 24] == case.labels[10, 24, 24]
    assert wrong_elsewhere(second, case) < 0.7 * wrong_elsewhere(before, case)


def test_a_volume_that_was_not_segmented_before_comes_as_a_whole(
    session: FewShotSession, task: LearnedTask
) -> None:
    case = faint(7)
    at_once = session.open(case.volume, task)
    corrections = Corrections.from_slices(case.labels, 0, CORRECTED)
    results = list(at_once.correct(corrections))
    assert {result.index for result in results} == set(range(len(case.labels)))
    in_turn = session.open(case.volume, task)
    for _ in in_turn.slices():
        pass
    assert np.array_equal(
        labels_of(in_turn.correct(corrections), case), labels_of(results, case)
    )


def test_kept_features_are_not_encoded_again(session: FewShotSession, task: LearnedTask) -> None:
    case = faint(7)
    opened = session.open(case.volume, task)
    for _ in opened.slices():
        pass
    seen = session.backbone.encoded
    seen.clear()
    for _ in opened.correct(Corrections.from_slices(case.labels, 0, CORRECTED)):
        pass
    assert not seen


def test_a_task_remembers_what_was_taught_when_it_is_read_again(
    session: FewShotSession, task: LearnedTask, tmp_path: Path
) -> None:
    case, other = faint(7), faint(9)
    opened = session.open(case.volume, task)
    for _ in opened.correct(Corrections.from_slices(case.labels, 0, CORRECTED)):
        pass
    taught = opened.task()
    read = LearnedTask.load(taught.save(tmp_path / "taught.oflsam2"))
    plain, now, after_reading = (
        labels_of(session.segment(other.volume, each), other) for each in (task, taught, read)
    )
    assert np.array_equal(now, after_reading)
    truth = other.labels == BRIGHT.label
    assert dice(truth, now == BRIGHT.label) > dice(truth, plain == BRIGHT.label)


def test_corrections_that_cannot_be_are_refused(session: FewShotSession, task: LearnedTask) -> None:
    case = faint(7)
    opened = session.open(case.volume, task)
    with pytest.raises(InputError, match="the volume"):
        opened.correct(Corrections.from_slices(case.labels[:9], 0, [8]))
    with pytest.raises(InputError, match="no structure of the learned task: 9"):
        opened.correct(Corrections.from_slices(case.labels * 0 + 9, 0, [8]))


def test_equations_of_corrected_slices_add_exactly() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 50, 6, generator=rng, dtype=torch.float64)
    wanted = torch.randn(4, 2, 3, 50, generator=rng, dtype=torch.float64)
    each = [NormalEquations.of(r, w) for r, w in zip(rows, wanted, strict=True)]
    support = NormalEquations(each[0].gram, each[0].moment)
    # Three whole slices and one that is known to a half, beside a support that counts as SUPPORT_AS.
    from OFLSAM2Core.methods.locate_predict_fuse.config import SUPPORT_AS

    together = added(support, each[1:], [1.0, 1.0, 0.5]).closed_form()
    scale = torch.tensor([SUPPORT_AS, 1.0, 1.0, 0.5], dtype=torch.float64)
    scale = (scale / scale.sum() / 50).sqrt()
    ones = torch.ones(2, dtype=torch.float64)
    for n in range(2):
        stacked = (rows * scale[:, None, None]).flatten(0, 1)
        aims = (wanted[:, n].transpose(1, 2) * scale[:, None, None]).flatten(0, 1)
        from OFLSAM2Core.methods.common.mapping_network import REGULARISER

        ridge = stacked.T @ stacked + REGULARISER**2 * torch.eye(6, dtype=torch.float64)
        torch.testing.assert_close(together[n], torch.linalg.solve(ridge, stacked.T @ aims))
    assert ones.sum() == 2


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
