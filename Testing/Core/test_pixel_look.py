"""A look at pixels as they are: learned from the support's slices, believed where features agree.

Real hippocampi, and a made-up volume whose slices can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_cases import Shown, part_of
from torch import Tensor
from whole_volumes import segmented

from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.base import SupportSlices
from OFLSAM2Core.methods.ofl_sam2 import pixel_lessons, pixel_look
from OFLSAM2Core.methods.ofl_sam2.consistency import ProbabilityVolume
from OFLSAM2Core.methods.ofl_sam2.levels import Level, LevelError, LevelScale
from OFLSAM2Core.methods.ofl_sam2.look import weighed
from OFLSAM2Core.methods.ofl_sam2.pixel_lessons import PixelLessons
from OFLSAM2Core.methods.ofl_sam2.pixel_look import AGREED, PixelLook, where_agreed
from OFLSAM2Core.methods.ofl_sam2.pixel_network import SMALLEST, PixelNetwork
from OFLSAM2Core.methods.ofl_sam2.seen_pixels import SIDE, SeenPixels
from OFLSAM2Core.methods.options import PRESETS, MethodOptions
from OFLSAM2Core.metrics import dice
from OFLSAM2Core.preparation import Preparation, PreparedVolume
from OFLSAM2Core.results import Progress
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.slicing import Slicing
from OFLSAM2Core.volume import SupportCase, Volume

CPU = torch.device("cpu")
MIDDLE = SIDE // 2


def _case(number: str) -> SupportCase:
    """The slices of a sample case in which its hippocampus is widest."""
    return part_of(number, 13, 19)


def _silent(progress: Progress) -> None:
    """Nobody asks."""


def _learned(support: Shown, steps: int, seed: int = 0) -> PixelLook:
    torch.manual_seed(seed)
    lessons = PixelLessons.of(support.support, support.structures, LevelError(), None)
    return lessons.learn(steps, CPU, np.random.default_rng(seed), _silent)


def _read(look: PixelLook, shown: SupportSlices, side: int = SIDE) -> ProbabilityVolume:
    scale = LevelScale.of_labels(shown.labels, shown.slicing.slice_spacing)
    return look.read(shown.prepared, shown.slicing, scale, side, _silent)


def _numbered(slices: int, thickness: float) -> tuple[PreparedVolume, Slicing]:
    """Slice n has n as its grey value, of as many as there are."""
    array = np.broadcast_to(np.arange(slices)[:, None, None], (slices, 40, 40))
    affine = np.diag([1, 1, thickness, 1])
    volume = Volume(np.ascontiguousarray(array, dtype=np.float32), affine, "numbered")
    cut = Slicing.for_volume(volume, "axial")
    curve = (0.0, float(slices)), (0.0, 1.0)
    return Preparation("CT", 40 / SIDE, SIDE, curve).prepare(volume, cut), cut


@pytest.fixture(scope="module")
def support() -> Shown:
    return Shown(_case("001"), _case("003"))


@pytest.fixture(scope="module")
def look(support: Shown) -> PixelLook:
    return _learned(support, steps=100)


def test_what_is_learned_from_two_hippocampi_finds_most_of_a_third(
    support: Shown, look: PixelLook
) -> None:
    third = support.of(_case("006"))
    found = _read(look, third)
    drawn = [np.asarray(third.prepared.to_grid(found.slice(n, CPU))) > 0.5 for n in range(6)]
    either = np.stack(drawn).any(axis=1)
    assert dice(third.labels > 0, either) > 0.5
    untrained = PixelLook(PixelNetwork(2).eval())
    assert torch.all(_read(untrained, third).slice(0, CPU) == 128 / 255)


def test_the_same_seed_learns_the_same_and_another_seed_does_not(support: Shown) -> None:
    first, again, other = (_learned(support, 3, seed).to_tensors() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["enter.weight"], other["enter.weight"])


def test_a_slice_is_seen_between_those_that_lie_some_millimetres_off() -> None:
    for thickness, step in ((0.625, 4), (1.0, 2), (3.0, 1), (10.0, 1)):
        seen = SeenPixels(*_numbered(12, thickness))
        assert seen.step == step
        middle = [float(plane[MIDDLE, MIDDLE]) * 12 for plane in seen.image(6)]
        assert middle == pytest.approx([6 - step, 6, 6 + step], abs=0.01)
        first = [float(plane[MIDDLE, MIDDLE]) * 12 for plane in seen.image(0)]
        assert first == pytest.approx([0, 0, step], abs=0.01)


def test_slices_read_together_are_read_as_each_by_itself(
    look: PixelLook, support: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = support.support[0]
    together = _read(look, shown)
    monkeypatch.setattr(pixel_look, "BATCH", 1)
    alone = _read(look, shown)
    for index in range(shown.slicing.count):
        torch.testing.assert_close(
            together.slice(index, CPU), alone.slice(index, CPU), atol=1 / 255, rtol=0
        )


def test_a_coarser_backbone_gets_what_is_read_on_its_own_grid(
    look: PixelLook, support: Shown
) -> None:
    fine = _read(look, support.support[0]).slice(3, CPU)
    coarse = _read(look, support.support[0], side=SIDE // 2).slice(3, CPU)
    assert coarse.shape == (2, SIDE // 2, SIDE // 2)
    averaged = torch.nn.functional.avg_pool2d(fine, 2)
    assert (averaged - coarse).abs().mean() < 0.01


def test_images_of_every_side_that_is_asked_for_are_read() -> None:
    network = PixelNetwork(structures=3)
    for side in (SMALLEST, 3 * SMALLEST, SIDE):
        found = network(torch.rand(2, 3, side, side), [Level(0.0), Level(1.0)])
        assert found.shape == (2, 3, side, side)


def _blob(*columns: tuple[int, int]) -> ProbabilityVolume:
    """A structure each, from column to column, surely there and surely not elsewhere."""
    values = torch.full((1, len(columns), 20, 20), 0.05)
    for own, (first, last) in zip(values[0], columns, strict=True):
        own[5:15, first:last] = 0.9
    return ProbabilityVolume.of_slices(values)


def test_pixels_are_believed_for_structures_that_features_draw_much_alike() -> None:
    drawn, seen = _blob((0, 10), (10, 20)), _blob((0, 9), (16, 20))
    agreement = drawn.agreement(seen)
    assert agreement == pytest.approx([18 / 19, 8 / 14])
    assert agreement[0] > AGREED > agreement[1]
    fused = where_agreed(drawn, seen, agreement, CPU).slice(0, CPU)
    own, others = drawn.slice(0, CPU), seen.slice(0, CPU)
    torch.testing.assert_close(fused[0], weighed(own[0], others[0]), atol=1 / 255, rtol=0)
    assert torch.equal(fused[1], own[1])


def test_where_neither_draws_anything_features_stay_as_they_are() -> None:
    nothing = ProbabilityVolume.of_slices(torch.full((2, 1, 20, 20), 0.3))
    little = ProbabilityVolume.of_slices(torch.full((2, 1, 20, 20), 0.1))
    fused = where_agreed(nothing, little, nothing.agreement(little), CPU)
    assert torch.equal(fused.slice(1, CPU), nothing.slice(1, CPU))


def _options(**changes: object) -> MethodOptions:
    quick = {
        "epochs": 1,
        "augmented_copies": 0,
        "slicing_axis": "axial",
        "pixel_steps": 2,
        "registration": False,
    }
    return MethodOptions.from_json({**quick, **changes})


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    return FewShotSession("litemedsam", "cpu", options=_options())


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([_case("001"), _case("003")])


def _of_pixels(task: LearnedTask) -> list[str]:
    return [name for name in task.tensors if name.startswith("pixels.")]


def test_what_pixels_say_changes_what_is_drawn_and_old_tasks_are_read_without_it(
    session: FewShotSession, task: LearnedTask, look: PixelLook, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _case("006")
    assert _of_pixels(task)
    learned_longer = {f"pixels.{name}": t for name, t in look.to_tensors().items()}
    longer = replace(task, tensors={**task.tensors, **learned_longer})
    without = replace(
        task, tensors={k: t for k, t in task.tensors.items() if not k.startswith("pixels.")}
    )
    plain = segmented(session, without, case)
    monkeypatch.setattr(pixel_look, "AGREED", 1.1)
    np.testing.assert_array_equal(segmented(session, longer, case), plain)
    monkeypatch.setattr(pixel_look, "AGREED", 0.0)
    assert (segmented(session, longer, case) != plain).any()


def test_a_task_that_lacks_a_part_of_it_says_so(session: FewShotSession, task: LearnedTask) -> None:
    kept = {name: each for name, each in task.tensors.items() if name != "pixels.enter.bias"}
    with pytest.raises(TaskError, match="from pixels"):
        next(iter(session.segment(_case("006").volume, replace(task, tensors=kept))))


def test_the_preset_fast_has_no_look_at_pixels_and_the_others_have() -> None:
    steps = {name: MethodOptions.from_preset(name).pixel_steps for name in PRESETS}
    assert steps["fast"] == 0
    assert steps["balanced"] == steps["accurate"] > 0


def test_where_it_is_switched_off_or_a_square_is_looked_at_nothing_is_learned_from_pixels(
    session: FewShotSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = [_case("001"), _case("003")]
    off = FewShotSession(session.backbone, options=_options(pixel_steps=0)).learn(support)
    assert not _of_pixels(off)
    monkeypatch.setattr("OFLSAM2Core.preparation.wanted_side", _small_square)
    squares = session.learn(support)
    assert squares.preparation.square_pixel is not None
    assert not _of_pixels(squares)


def _small_square(labels: Sequence[np.ndarray], slicings: Sequence[Slicing]) -> float:
    return 20.0


def test_bfloat16_is_used_on_processors_that_have_it_alone(
    support: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions: list[torch.dtype] = []
    forward = PixelNetwork.forward

    def seen(network: PixelNetwork, images: Tensor, levels: Sequence[Level]) -> Tensor:
        found = forward(network, images, levels)
        precisions.append(found.dtype)
        return found

    monkeypatch.setattr(PixelNetwork, "forward", seen)
    for quick, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(pixel_lessons, "has_matrix_tiles", lambda device, quick=quick: quick)
        precisions.clear()
        learned = _learned(support, steps=1)
        assert set(precisions) == {expected}
        _read(learned, support.support[0])
        assert precisions[-1] == torch.float32
