"""Multi-atlas segmentation by itself: it finds, registers and votes, without a backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from OFLSAM2Core.atlas.label_fusion import locally_weighted, majority
from OFLSAM2Core.atlas.template_matching import best_translation
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.session import FewShotSession

STRUCTURES = (Structure("core", 2), Structure("shell", 5))


pytestmark = pytest.mark.usefixtures("one_thread")


def _case(
    name: str, shape: tuple[int, int, int], middle: tuple[int, int, int], radius: float = 6
) -> SupportCase:
    """A bright ball in a darker shell with a bright rod beside it, in noise; 3 mm voxels."""
    at = np.indices(shape).astype(float)
    away = np.sqrt(sum((own - m) ** 2 for own, m in zip(at, middle, strict=True)))
    labels = np.where(away < radius / 2, 2, np.where(away < radius, 5, 0)).astype(np.uint8)
    image = np.random.default_rng(len(name)).normal(60, 4, shape)
    image += 140 * (labels == 2) + 70 * (labels == 5)
    rod = (abs(at[1] - middle[1] - radius - 5) < 2) & (abs(at[2] - middle[2]) < 3)
    image += 110 * rod
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    return SupportCase(Volume(image.astype(np.float32), affine, name), labels, STRUCTURES)


@pytest.fixture(scope="module")
def task() -> LearnedTask:
    cases = [
        _case("a", (16, 30, 30), (8, 12, 15), 5.5),
        _case("bb", (16, 30, 30), (8, 13, 14), 6),
        _case("ccc", (16, 30, 30), (8, 12, 14), 6.5),
    ]
    return FewShotSession(method="atlas", device="cpu").learn(cases)


def _segment(volume: Volume, task: LearnedTask, **options: str) -> npt.NDArray[np.uint8]:
    """Labels and confidence, (2, K, J, I)."""
    found = np.zeros((2, *volume.grid_shape), np.uint8)
    session = FewShotSession(method="atlas", device="cpu")
    for result in session.segment(volume, task, options=options):
        found[0][result.index_expression] = result.labels
        found[1][result.index_expression] = result.confidence
    return found


def test_structures_are_found_far_from_where_the_support_has_them(
    task: LearnedTask, tmp_path: Path
) -> None:
    """In a larger field of view, near a corner; and through a file."""
    truth = _case("a new one", (26, 48, 50), (18, 14, 36))
    kept = LearnedTask.load(task.save(tmp_path / "atlas.oflsam2"))
    labels, confidence = _segment(truth.volume, kept)
    for structure in STRUCTURES:
        own = dice(labels == structure.label, truth.labels == structure.label)
        assert own > 0.75, (structure.name, own)
    # They agree inside and far away, and less at the border.
    inside, far = truth.labels == 2, np.zeros_like(truth.labels, bool)
    far[:4] = True
    border = (labels > 0) != (truth.labels > 0)
    assert confidence[far].mean() > 250 and confidence[inside].mean() > 150
    assert confidence[border].mean() < confidence[inside].mean()


def test_a_task_holds_no_backbone_and_the_votes_follow_the_option(task: LearnedTask) -> None:
    assert task.backbone == ""
    volume = _case("another", (16, 30, 30), (8, 13, 14)).volume
    one, other = (_segment(volume, task, fusion=way) for way in ("majority", "weighted"))
    assert not np.array_equal(one[1], other[1])


def test_corrections_are_refused_with_what_to_do(task: LearnedTask) -> None:
    volume = _case("another", (16, 30, 30), (8, 13, 14)).volume
    run = FewShotSession(method="atlas", device="cpu").open(volume, task)
    shape = volume.grid_shape
    with pytest.raises(InputError, match="atlas"):
        next(iter(run.correct(Corrections(np.zeros(shape, np.uint8), np.ones(shape, bool)))))


def test_the_place_of_a_template_is_that_which_it_was_cut_from() -> None:
    volume = torch.randn(1, 3, 12, 14, 16, generator=torch.Generator().manual_seed(0))
    template = volume[:, :, 3:8, 6:12, 2:8]
    inside = torch.ones(12, 14, 16)
    assert best_translation(volume, inside, template) == (5, 9, 5)
    # Two of three are from there, and noise hides it a little.
    others = torch.cat([template, template, torch.randn(1, 3, 5, 6, 6)])
    assert best_translation(volume + 0.3, inside, others) == (5, 9, 5)


def test_a_majority_is_a_share_of_those_that_have_the_structure() -> None:
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(4, 1, 1, 1, 1)
    has = torch.tensor([[True], [True], [True], [False]])
    assert float(majority(labels, has)) == pytest.approx(2 / 3)


def test_an_atlas_counts_for_more_where_it_is_more_similar() -> None:
    labels = torch.stack([torch.ones(1, 7, 7, 7), torch.zeros(1, 7, 7, 7)])
    has = torch.ones(2, 1, dtype=torch.bool)
    apart = torch.zeros(2, 1, 7, 7, 7)
    assert torch.allclose(locally_weighted(labels, apart, has), torch.full((1, 7, 7, 7), 0.5))
    apart[1] = 1.0
    assert (locally_weighted(labels, apart, has) > 0.9).all()
