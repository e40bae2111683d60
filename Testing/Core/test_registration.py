"""Support cases laid over a volume: what is known of where each place lies, and what labels say.

Made-up bodies that are moved, turned and bent by known maps, and real hippocampi.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from OFLSAM2Core.atlas.deformable_registration import STEPS, register
from OFLSAM2Core.atlas.isotropic_grid import CELLS, MULTIPLE, IsotropicGrid
from OFLSAM2Core.atlas.label_fusion import locally_weighted
from OFLSAM2Core.atlas.mind import CHANNELS, mind_ssc
from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases
from OFLSAM2Core.methods.ofl_sam2_atlas.fuse import MOST, prior_weights, weighted_mean
from OFLSAM2Core.methods.ofl_sam2_atlas.leave_one_out import overlap
from OFLSAM2Core.methods.ofl_sam2_atlas.places import likely_places
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Intensity, Scan
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume

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


def test_a_volume_with_cells_of_the_grids_size_stays_as_it_is() -> None:
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


def test_a_case_that_was_moved_turned_and_bent_is_registered_to_the_volume_again() -> None:
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


def test_cases_are_registered_to_a_volume_each_by_itself() -> None:
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


def test_a_more_similar_case_counts_for_more_and_one_without_the_structure_not_at_all() -> None:
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
    return ProbabilityVolume.of_slices(values, 1)


def test_the_prior_counts_for_more_of_structures_that_registration_knows_well() -> None:
    both = _sure(0.8)
    weight = prior_weights(both, both, np.array([0.9, 0.6, 0.2]))
    assert MOST >= weight[0] > weight[1] > weight[2]


def test_the_prior_counts_for_more_where_cases_agree_and_less_where_the_prediction_is_sure() -> (
    None
):
    predicted, reliable = _sure(0.8), np.array([0.9, 0.5, np.nan])
    weight = prior_weights(predicted, predicted, reliable)
    agreed = prior_weights(predicted, _sure(0.99), reliable)
    surer = prior_weights(_sure(0.99), predicted, reliable)
    assert bool((agreed >= weight).all() and (surer <= weight).all())
    assert agreed[1] > weight[1] + 0.1 and surer[1] < weight[1] - 0.1
    assert agreed[2] == weight[2]  # A single case agrees with itself.


def test_both_probabilities_are_averaged_by_the_priors_weight() -> None:
    weight = np.array([0.0, 0.25, 0.85])
    kept = weighted_mean(_sure(0.8), _sure(0.0), weight).slice(0, CPU)[:, 0, 0] / 0.8
    np.testing.assert_allclose(kept, 1 - weight, atol=0.01)


def test_two_hippocampi_registered_to_a_third_say_where_it_is() -> None:
    """Nothing is given of where it lies but the image."""
    cases = [sample_data().read_case(f"hippocampus_{number}") for number in ("001", "003", "006")]
    structures, slicing = cases[0].structures, [SliceGeometry.for_volume(c.volume) for c in cases]
    scans = [
        Scan(case.name, own.to_slices(case.volume.array), own)
        for case, own in zip(cases, slicing, strict=True)
    ]
    labels = [own.to_slices(case.labels) for case, own in zip(cases, slicing, strict=True)]
    atlases = Atlases.of_support(
        scans[:2], labels[:2], structures, Intensity.fit(scans[:2], labels[:2])
    )
    places = likely_places(atlases, scans[2], (0, 1))
    poses = atlases.pose(scans[2], places, (0, 1), lambda step: None)
    best = min(poses, key=lambda each: each.dissimilarity)
    prior = atlases.prior_of(scans[2], best, deform=True, on_step=lambda step: None)
    assert overlap(prior, labels[2], structures).min() > 0.7


def test_registration_by_image_and_prediction_is_better_than_by_the_image_alone() -> None:
    """From several places beside a hippocampus, with its labels for a prediction."""
    cases = [sample_data().read_case(f"hippocampus_{number}") for number in ("001", "003", "006")]
    structures, slicing = cases[0].structures, [SliceGeometry.for_volume(c.volume) for c in cases]
    scans = [
        Scan(case.name, own.to_slices(case.volume.array), own)
        for case, own in zip(cases, slicing, strict=True)
    ]
    *labels, truth = [own.to_slices(c.labels) for c, own in zip(cases, slicing, strict=True)]
    atlases = Atlases.of_support(scans[:2], labels, structures, Intensity.fit(scans[:2], labels))
    there = np.argwhere(truth)
    middle = (there.min(axis=0) + there.max(axis=0)) / 2 * np.array(slicing[2].steps)

    def predicted(index: int) -> npt.NDArray:
        return np.stack([truth[index] == each.label for each in structures]).astype(np.float32)

    for beside in ((0, 12, 0), (8, 0, 8), (0, 0, 12)):
        slices, rows, columns = (float(each) for each in middle + np.array(beside))
        worst = []
        for planes in (None, predicted):
            (pose,) = atlases.pose(
                scans[2], [(slices, rows, columns)], (0, 1), lambda step: None, planes
            )
            prior = atlases.prior_of(
                scans[2], pose, deform=True, on_step=lambda step: None, predicted=planes
            )
            worst.append(overlap(prior, truth, structures).min())
        assert worst[1] > worst[0] + 0.015
