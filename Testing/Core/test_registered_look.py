"""Support cases laid over a volume: what is known of where each place lies, and what labels say.

Made-up bodies that are moved, turned and bent by known maps, and real hippocampi.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sample_cases import Shown, part_of
from scipy import ndimage
from torch import Tensor
from whole_volumes import segmented

from OFLSAM2Core.atlas import atlas_set
from OFLSAM2Core.atlas.atlas_set import (
    GREYS,
    MOST,
    TRUSTED,
    AtlasSet,
    RegistrationStart,
    averaged,
    shares,
)
from OFLSAM2Core.atlas.deformable_registration import STEPS, register
from OFLSAM2Core.atlas.isotropic_grid import CELLS, MULTIPLE, IsotropicGrid
from OFLSAM2Core.atlas.label_fusion import locally_weighted
from OFLSAM2Core.atlas.mind import CHANNELS, mind_ssc
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior, as_heard
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.ofl_sam2_atlas.state import AtlasMethodState
from OFLSAM2Core.methods.ofl_sam2_atlas.volume_pass import SlicePosterior, VolumePass
from OFLSAM2Core.postprocessing.confidence import TEMPERATURE, WITH_REGISTRATION
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.support_stack import SupportStack
from OFLSAM2Core.session import FewShotSession

GRID = IsotropicGrid(2.0, (24, 32, 32))
CPU = torch.device("cpu")


def _texture(seed: int, shape: tuple[int, ...] = GRID.shape, smooth: float = 2.0) -> Tensor:
    noise = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(ndimage.gaussian_filter(noise, smooth).astype(np.float32))[None, None]


def _ball(radius: float, middle: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """(1, 1, D, H, W), radius and middle in mm."""
    away = (GRID.points() - torch.tensor(middle)).norm(dim=-1)
    return (away < radius).float()[None, None]


def test_how_alike_neighbours_are_does_not_depend_on_how_bright_an_image_is() -> None:
    image = _texture(1)
    looks = mind_ssc(image)
    assert looks.shape == (1, CHANNELS, *GRID.shape)
    assert looks.min() >= 0 and looks.max() == 1
    torch.testing.assert_close(mind_ssc(300 - 50 * image), looks, atol=1e-3, rtol=0)
    assert (mind_ssc(_texture(2)) - looks).abs().mean() > 0.1


def test_an_image_without_anything_in_it_looks_the_same_everywhere() -> None:
    looks = mind_ssc(torch.full((1, 1, 8, 8, 8), 0.3))
    assert torch.equal(looks, torch.ones_like(looks))


def test_a_grid_holds_what_it_is_to_hold_in_so_many_cells() -> None:
    for extent, finest in (((335.0, 228.0, 190.0), 2.5), ((88.0, 140.0, 60.0), 0.6)):
        grid = IsotropicGrid.holding(extent, finest)
        assert all(n * grid.spacing >= e for n, e in zip(grid.shape, extent, strict=True))
        assert all(side % MULTIPLE == 0 for side in grid.shape)
        assert CELLS <= np.prod(grid.shape) < 1.6 * CELLS
    small = IsotropicGrid.holding((20.0, 30.0, 30.0), 1.0)
    assert small.spacing == 1.0 and small.shape == (24, 32, 32)


def test_maps_at_a_grids_own_points_are_the_maps() -> None:
    maps = _texture(3)
    torch.testing.assert_close(GRID.at(maps, GRID.points()[None]), maps, atol=1e-5, rtol=0)


def _volume(array: npt.NDArray, steps: tuple[float, float, float]) -> tuple[Volume, SliceGeometry]:
    """Canonical slices as they are; steps: mm between slices, rows and columns."""
    affine = np.diag([-steps[2], -steps[1], steps[0], 1.0])
    volume = Volume(np.ascontiguousarray(array), affine, "made up")
    slicing = SliceGeometry.for_volume(volume, "axial")
    np.testing.assert_array_equal(slicing.to_slices(volume.array), array)
    return volume, slicing


def test_a_volume_with_cells_of_the_grids_size_is_shown_as_it_is() -> None:
    array = _texture(4)[0, 0].numpy()
    _, slicing = _volume(array, (2.0, 2.0, 2.0))
    middle = (23.0, 31.0, 31.0)
    shown, inside = GRID.show(lambda index: array[index][None], slicing, middle)
    torch.testing.assert_close(shown[0], torch.from_numpy(array), atol=1e-5, rtol=0)
    assert bool(inside.all())
    beyond = (23.0 + 8, 31.0, 31.0 - 4)
    shown, inside = GRID.show(lambda index: array[index][None], slicing, beyond)
    torch.testing.assert_close(
        shown[0, :20, :, 2:], torch.from_numpy(array)[4:, :, :30], atol=1e-5, rtol=0
    )
    assert bool(inside[:20, :, 2:].all()) and not bool(inside[20:].any() or inside[:, :, :2].any())


@pytest.mark.parametrize("steps", [(2.5, 0.7, 0.7), (5.0, 1.0, 1.5), (0.5, 0.5, 0.5)])
def test_what_is_put_on_a_grid_comes_back_where_it_was(steps: tuple[float, float, float]) -> None:
    shape = tuple(int(60 / step) for step in steps)
    places = np.stack(
        np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, steps, strict=True)], indexing="ij")
    )
    away = np.sqrt(((places - 29.0) ** 2 * np.array([1, 1, 2]).reshape(3, 1, 1, 1)).sum(axis=0))
    array = np.clip(1 - away / 25, 0, None).astype(np.float32)
    _, slicing = _volume(array, steps)
    middle = (28.0, 29.0, 30.0)
    shown, there = GRID.show(lambda index: array[index][None], slicing, middle)
    box = (5, shape[1] - 4, 3, shape[2] - 6)
    for index in (shape[0] // 3, shape[0] // 2):
        back = GRID.on_slices(shown * there, slicing, middle, index, box)[0]
        wanted = torch.from_numpy(array[index, box[0] : box[1], box[2] : box[3]])
        assert (back - wanted).abs().mean() < 0.02


def _bent(image: Tensor, points: Tensor) -> Tensor:
    return GRID.at(image, points[None])


def _known_map() -> Tensor:
    """Where a volume's points lie in a case: moved, turned, larger and bent."""
    points = GRID.points()
    turn = torch.tensor([[1.05, 0.0, 0.1], [0.0, 0.95, -0.1], [-0.1, 0.1, 1.1]])
    bend = 2.5 * torch.sin(points.flip(-1) / 12)
    return points @ turn.T + bend + torch.tensor([3.0, -4.0, 5.0])


INSIDE = torch.ones(GRID.shape)


def _no_matter(step: int) -> None:
    """Steps of registration are not looked at."""


def test_a_case_that_was_moved_turned_and_bent_is_laid_over_the_volume_again() -> None:
    case, ball = _texture(5, smooth=1.5), _ball(14, (3.0, -4.0, 5.0))
    wanted = _known_map()
    volume = mind_ssc(_bent(case, wanted))
    start = torch.tensor([[1.0, -2.0, 3.0]])
    steps: list[int] = []
    found = register(GRID, volume, INSIDE, mind_ssc(case), start, steps.append)
    assert steps == list(range(STEPS))
    assert found.shape == (1, *GRID.shape, 3)
    within = _bent(ball, wanted)[0, 0] > 0.5
    assert (found[0] - wanted)[within].norm(dim=-1).median() < GRID.spacing / 2
    over = GRID.at(ball, found)[0, 0] > 0.5
    before = _ball(14, (2.0, -2.0, 2.0))[0, 0] > 0.5
    assert dice(over.numpy(), within.numpy()) > 0.95 > dice(before.numpy(), within.numpy())


def test_what_lies_outside_the_volume_does_not_matter() -> None:
    case = mind_ssc(_texture(5))
    spoilt = case.clone()
    spoilt[:, :, :8] = mind_ssc(_texture(6))[:, :, :8]
    inside = INSIDE.clone()
    inside[:8] = 0
    start = torch.tensor([[2.0, 0.0, -2.0]])
    plain, other = (
        register(GRID, volume, inside, case, start, _no_matter) for volume in (case, spoilt)
    )
    torch.testing.assert_close(plain[:, 8:], other[:, 8:], atol=0.05, rtol=0)


def test_cases_are_laid_over_a_volume_each_by_itself() -> None:
    """So what one case looks like must not change where another one lies."""
    volume = mind_ssc(_texture(6))
    cases = mind_ssc(torch.cat([_texture(7), _texture(8)]))
    starts = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    both = register(GRID, volume, INSIDE, cases, starts, _no_matter)
    for n in range(2):
        one = slice(n, n + 1)
        alone = register(GRID, volume, INSIDE, cases[one], starts[one], _no_matter)
        assert (both[n] - alone[0]).norm(dim=-1).median() < 0.05


def test_registration_can_be_stopped_at_any_step() -> None:
    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    looks = mind_ssc(_texture(6))
    with pytest.raises(KeyboardInterrupt):
        register(GRID, looks, INSIDE, looks, torch.zeros(1, 3), stop)


def test_the_case_that_looks_liker_counts_for_more_and_one_without_the_structure_not_at_all() -> (
    None
):
    volume = mind_ssc(_texture(9))
    apart = torch.cat([volume, mind_ssc(_texture(10))]) - volume
    labels = torch.stack([torch.full((2, *GRID.shape), 0.9), torch.full((2, *GRID.shape), 0.1)])
    has = torch.tensor([[True, True], [True, False]])
    found = locally_weighted(labels, apart, has)
    assert 0.6 < found[0].mean() < 0.9
    torch.testing.assert_close(found[1], torch.full(GRID.shape, 0.9))


def _sure(probability: float) -> ProbabilityVolume:
    """Three structures, each drawn in a tenth of the slice with this probability."""
    values = torch.zeros(1, 3, 20, 20)
    values[:, :, :2] = probability
    return ProbabilityVolume.of_slices(values)


def test_registration_counts_for_more_of_structures_that_it_knows_well() -> None:
    drawn = _sure(0.8)
    share = shares(drawn, drawn, np.array([0.95, 0.5, np.nan]))
    assert 0 < share[1] < share[2] < share[0] <= MOST
    as_good = shares(drawn, drawn, drawn.expected_dice())
    assert as_good == pytest.approx([TRUSTED / (1 + TRUSTED)] * 3)


def test_registration_counts_for_more_where_cases_agree_and_for_less_where_all_else_is_sure() -> (
    None
):
    drawn, reliable = _sure(0.8), np.array([0.9, 0.5, np.nan])
    share = shares(drawn, drawn, reliable)
    agreed = shares(drawn, _sure(0.99), reliable)
    surer = shares(_sure(0.99), drawn, reliable)
    assert bool((agreed >= share).all() and (surer <= share).all())
    assert agreed[1] > share[1] + 0.1 and surer[1] < share[1] - 0.1
    assert agreed[2] == share[2]  # A single case agrees with itself.


def test_both_probabilities_are_averaged_by_what_registration_counts_for() -> None:
    share = np.array([0.0, 0.25, 0.85])
    kept = averaged(_sure(0.8), _sure(0.0), share, CPU).slice(0, CPU)[:, 0, 0] / 0.8
    np.testing.assert_allclose(kept, 1 - share, atol=0.01)


def _hippocampi(*numbers: str) -> tuple[list[SupportStack], tuple[Structure, ...]]:
    shown = Shown(*(sample_data().read_case(f"hippocampus_{number}") for number in numbers))
    return shown.support, shown.structures


def _look_of(
    cases: list[SupportStack],
    structures: tuple[Structure, ...],
    partners: npt.NDArray[np.intp] | None = None,
) -> AtlasSet:
    look, votes = AtlasSet.from_support(cases, structures, partners, CPU, _silent)
    assert (votes is None) == (len(cases) == 1)
    return look


def _silent(progress: Progress) -> None:
    """Nobody asks."""


def _read(look: AtlasSet, case: SupportStack, drawn: ProbabilityVolume) -> ProbabilityVolume | None:
    began = _begun(look, case, drawn)
    if began is None:
        return None
    return look.read(case.prepared, case.slicing, began, _silent).on_slice_grid(_whole(case))


def _begun(
    look: AtlasSet, case: SupportStack, drawn: ProbabilityVolume
) -> RegistrationStart | None:
    centres = drawn.centres(_whole(case), case.slicing.steps)
    return look.begin(centres)


def _whole(case: SupportStack) -> tuple[int, int, int, int]:
    rows, columns = case.slicing.slice_shape
    return 0, rows, 0, columns


def _drawn(case: SupportStack, structures: tuple[Structure, ...]) -> ProbabilityVolume:
    return ProbabilityVolume.of_slices(
        torch.from_numpy(np.stack([plane == each.label for each in structures]))
        for plane in case.labels
    )


def _overlaps(
    found: ProbabilityVolume, case: SupportStack, structures: tuple[Structure, ...]
) -> list[float]:
    masks = np.stack([found.slice(n, CPU).numpy() > 0.5 for n in range(found.count)], axis=1)
    return [
        dice(mask, case.labels == each.label) for mask, each in zip(masks, structures, strict=True)
    ]


def test_two_hippocampi_laid_over_a_third_say_where_it_is() -> None:
    (one, other, third), structures = _hippocampi("001", "003", "006")
    look = _look_of([one, other], structures)
    assert look.grey in GREYS
    assert bool((look.reliable > 0.6).all())
    # What is known of the third lies two voxels off along each axis.
    moved = _drawn(replace(third, labels=np.roll(third.labels, (2, 2, 2), (0, 1, 2))), structures)
    found = _read(look, third, moved)
    assert found is not None
    better = _overlaps(found, third, structures)
    assert min(better) > 0.7
    assert np.mean(better) > np.mean(_overlaps(moved, third, structures)) + 0.1


def test_what_the_others_say_of_a_support_case_is_as_right_as_they_are_reliable() -> None:
    cases, structures = _hippocampi("001", "003", "006")
    look, votes = AtlasSet.from_support(cases, structures, None, CPU, _silent)
    assert votes is not None
    right = [
        _overlaps(own.on_slice_grid(_whole(case)), case, structures)
        for own, case in zip(votes, cases, strict=True)
    ]
    np.testing.assert_allclose(np.mean(right, axis=0), look.reliable.numpy(), atol=0.02)


def test_of_cases_that_know_little_of_one_another_readouts_are_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases, structures = _hippocampi("001", "003")
    known = float(_look_of(cases, structures).reliable.mean())
    for least, told in ((known - 0.01, True), (known + 0.01, False)):
        monkeypatch.setattr(atlas_set, "TOLD", least)
        look, votes = AtlasSet.from_support(cases, structures, None, CPU, _silent)
        assert (votes is not None) == told and float(look.reliable.mean()) == known


def test_votes_are_shown_to_the_network_as_the_slice_is() -> None:
    (case,), structures = _hippocampi("001")
    grid = IsotropicGrid(1.0, (48, 64, 48))
    sides = zip(case.labels.shape, case.slicing.steps, strict=True)
    slices, rows, columns = ((n - 1) * step / 2 for n, step in sides)
    middle = slices, rows, columns
    planes = np.stack([case.labels == each.label for each in structures])
    shown, there = grid.show(lambda index: planes[:, index], case.slicing, middle)
    votes = AtlasPrior(shown * there, grid, middle, case.slicing)
    index = int(case.labels.any(axis=(1, 2)).nonzero()[0].mean())
    framing = case.prepared.framing
    own = votes.on_network_grid(index, framing)
    masks = [case.prepared.resample_mask(case.labels[index], each.label) for each in structures]
    assert np.abs(own - np.stack(masks)).mean() < 0.02
    heard = as_heard(own, framing.size // 2)
    np.testing.assert_allclose(heard.mean(dim=(1, 2)), own.mean(axis=(1, 2)), rtol=1e-4)


def test_in_a_mirror_a_case_serves_for_the_other_side() -> None:
    (one, other), structures = _hippocampi("001", "003")
    flipped = replace(other.prepared, stack=np.ascontiguousarray(other.prepared.stack[..., ::-1]))
    mirror = replace(other, prepared=flipped, labels=np.ascontiguousarray(other.labels[..., ::-1]))
    drawn = _drawn(mirror, structures)
    straight = _look_of([one], structures)
    partners = np.arange(len(structures))
    both = _look_of([one], structures, partners)
    plain, better = (_read(look, mirror, drawn) for look in (straight, both))
    assert plain is not None and better is not None
    assert np.mean(_overlaps(better, mirror, structures)) > np.mean(
        _overlaps(plain, mirror, structures)
    )


def test_where_nothing_was_drawn_there_is_nowhere_to_begin() -> None:
    (one, other), structures = _hippocampi("001", "003")
    look = _look_of([one], structures)
    nothing = _drawn(replace(other, labels=np.zeros_like(other.labels)), structures)
    assert _read(look, other, nothing) is None
    # One structure is enough to begin with, and the case shows where the other one lies.
    labels = np.where(other.labels == structures[0].label, other.labels, 0)
    found = _read(look, other, _drawn(replace(other, labels=labels), structures))
    assert found is not None and min(_overlaps(found, other, structures)) > 0.5


def _amid_something_else(case: SupportStack) -> SupportStack:
    """The case in a corner of a volume twice as large each way, noise around it."""
    slices, rows, columns = case.labels.shape
    stack = case.prepared.stack
    noise = _texture(9, (2 * slices, 2 * rows, 2 * columns), smooth=1.5)[0, 0].numpy()
    grey = float(stack.mean()) + noise / noise.std() * float(stack.std())
    labels = np.zeros(grey.shape, case.labels.dtype)
    grey[:slices, :rows, :columns] = stack
    labels[:slices, :rows, :columns] = case.labels
    steps = case.slicing.steps
    _, slicing = _volume(grey.astype(np.float32), (steps[0], steps[1], steps[2]))
    framing = Letterbox.fit(slicing.slice_shape, slicing.spacing_in_plane, 1.0, 256)
    return replace(
        case,
        prepared=replace(case.prepared, stack=grey.astype(np.float32), framing=framing),
        slicing=slicing,
        labels=labels,
    )


def test_registration_begins_at_what_was_predicted_though_a_twin_of_the_support_lies_apart() -> (
    None
):
    (one, other, third), structures = _hippocampi("001", "003", "006")
    look = _look_of([one, other], structures)
    shown = _amid_something_else(third)
    stack, twin = shown.prepared.stack.copy(), one.prepared.stack
    stack[tuple(slice(-length, None) for length in twin.shape)] = twin
    shown = replace(shown, prepared=replace(shown.prepared, stack=stack))
    found = _read(look, shown, _drawn(shown, structures))
    assert found is not None and min(_overlaps(found, shown, structures)) > 0.6


def test_a_look_comes_back_from_a_learned_task_as_it_was() -> None:
    (one,), structures = _hippocampi("001")
    for partners in (None, np.array([1, 0])):
        look = _look_of([one], structures, partners)
        back = AtlasSet.from_tensors(look.to_tensors(), CPU)
        assert back.grid == look.grid and back.grey == look.grey
        assert bool(look.reliable.isnan().all())  # One case has no other to be known by.
        for name, tensor in look.to_tensors().items():
            torch.testing.assert_close(back.to_tensors()[name], tensor, equal_nan=True)
        lacking = {name: each for name, each in look.to_tensors().items() if name != "labels"}
        with pytest.raises(TaskError, match="look like"):
            AtlasSet.from_tensors(lacking, CPU)


def _case(number: str) -> SupportCase:
    """The slices of a sample case in which its hippocampus is widest."""
    return part_of(number, 13, 19)


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    quick = {"epochs": 1, "augmented_copies": 0, "slicing_axis": "axial"}
    return FewShotSession("litemedsam", "cpu", options=quick)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([_case("001"), _case("003")])


def _registered(task: LearnedTask) -> list[str]:
    return [name for name in task.state.tensors if name.startswith("registered.")]


@pytest.mark.slow
def test_the_support_laid_over_a_volume_makes_what_is_drawn_better_and_old_tasks_go_without(
    session: FewShotSession, task: LearnedTask
) -> None:
    assert _registered(task)
    case = _case("006")
    without = replace(
        task, tensors={k: t for k, t in task.state.tensors.items() if k not in _registered(task)}
    )
    own, plain = (segmented(session, each, case)[0] for each in (task, without))
    labels = [each.label for each in case.structures]
    with_it, before = (
        np.mean([dice(found == label, case.labels == label) for label in labels])
        for found in (own, plain)
    )
    assert with_it > before


@pytest.mark.slow
def test_confidence_is_softened_less_once_registration_has_been_heard(
    session: FewShotSession, task: LearnedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    temperatures: list[float] = []
    run = VolumePass.run

    def seen(finish: VolumePass, *given: Any) -> Iterator[SlicePosterior]:
        for each in run(finish, *given):
            temperatures.append(each.temperature)
            yield each

    monkeypatch.setattr(VolumePass, "run", seen)
    for registration, expected in ((True, WITH_REGISTRATION), (False, TEMPERATURE)):
        temperatures.clear()
        options = {**session.changes.values, "atlas_prior": registration}
        segmented(FewShotSession(session.backbone, options=options), task, _case("006"))
        assert set(temperatures) == {expected}


@pytest.mark.slow
def test_s_cf_is_none_where_structures_were_drawn_and_the_cases_say_that_there_is_nothing(
    session: FewShotSession, task: LearnedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _case("006")
    before = [each for each in session.segment(case.volume, task) if each.revision]
    monkeypatch.setattr(ProbabilityVolume, "highest", lambda votes: np.zeros(votes.areas().shape))
    after = [each for each in session.segment(case.volume, task) if each.revision]
    scores = []
    for believed, doubted in zip(before, after, strict=True):
        np.testing.assert_array_equal(believed.labels, doubted.labels)
        for structure in case.structures:
            drawn = bool((believed.labels == structure.label).any())
            score = believed.scores[structure.name]
            assert doubted.scores[structure.name] == (0 if drawn else score)
            scores += [score] * drawn
    assert max(scores) > 0.5


@pytest.mark.slow
def test_readouts_hear_what_the_others_say_where_there_are_others(
    session: FewShotSession, task: LearnedTask
) -> None:
    parts = AtlasMethodState.from_tensors(task.state.tensors, session.backbone)
    assert parts.readout.uses_atlas_prior
    alone = session.learn([_case("001")])
    assert not AtlasMethodState.from_tensors(
        alone.state.tensors, session.backbone
    ).readout.uses_atlas_prior


@pytest.mark.slow
def test_it_can_be_switched_off_in_learning_and_in_segmenting(
    session: FewShotSession, task: LearnedTask
) -> None:
    off = {**session.changes.values, "atlas_prior": False}
    other = FewShotSession(session.backbone, options=off)
    assert not _registered(other.learn([_case("001"), _case("003")]))
    case = _case("006")
    assert (segmented(other, task, case) != segmented(session, task, case)).any()
