"""Slices along another axis besides: wanted by the support, and only where structures are.

Real hippocampi, five axial slices of each.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from orientations import ORIENTATIONS, stored, stored_array
from sample_cases import part_of
from whole_volumes import segmented

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.ofl_sam2_atlas import multiplanar
from OFLSAM2Core.methods.ofl_sam2_atlas.multiplanar import OrthogonalViewModel
from OFLSAM2Core.methods.ofl_sam2_atlas.options import PRESETS
from OFLSAM2Core.methods.ofl_sam2_atlas.view_model import weighed
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume, Preprocessing
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionScale


def _part(number: str) -> SupportCase:
    """A slab of a sample case, so that few slices are encoded."""
    return part_of(number, 15, 20)


def _box(
    size: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)
) -> SupportCase:
    """A box of so many voxels (K, J, I) in a larger volume."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[tuple(slice(10, 10 + each) for each in size)] = 1
    image = np.random.default_rng(0).random(labels.shape, dtype=np.float32)
    affine = np.diag([*spacing, 1.0])
    return SupportCase(Volume(image, affine, "made"), labels, (Structure("box", 1),))


def _prepared(case: SupportCase, zoom: bool = False, across: bool = True) -> Preprocessing:
    return Preprocessing.fit(
        [case], [SliceGeometry.for_volume(case.volume)], roi=zoom, orthogonal=across
    )


def _axes(case: SupportCase) -> list[str]:
    return [each.axis for each in _prepared(case).other_axes]


def test_the_axes_are_the_other_two_however_voxels_are_stored() -> None:
    case = _box((4, 8, 16), (1, 1, 1.4))
    for order, signs in ORIENTATIONS:
        volume = stored(case.volume, order, signs)
        turned = SupportCase(volume, stored_array(case.labels, order, signs), case.structures)
        assert _axes(turned) == ["sagittal", "coronal"]


def test_thick_slices_are_not_looked_at_across() -> None:
    assert _axes(_box((4, 8, 16), (1, 1, 1.4)))
    assert not _axes(_box((4, 8, 16), (1, 1, 3)))


def test_a_target_with_thick_slices_is_not_looked_at_across_either() -> None:
    even, thick = _box((8, 30, 30)), _box((8, 30, 30), (1, 1, 3))
    preparation = _prepared(even)
    assert (
        preparation.transform_orthogonal(thick.volume, SliceGeometry.for_volume(thick.volume)) == ()
    )
    found = preparation.transform_orthogonal(even.volume, SliceGeometry.for_volume(even.volume))
    assert [slicing.orientation for _, slicing in found] == ["sagittal", "coronal"]


def test_a_pixel_of_the_network_is_as_large_in_every_volume_along_each_axis() -> None:
    preparation = _prepared(_box((8, 30, 30), (1, 1.25, 1.25)))
    target = _box((8, 10, 20))
    found = preparation.transform_orthogonal(target.volume, SliceGeometry.for_volume(target.volume))
    assert len(found) == 2
    for shown, slicing in found:
        (own,) = (each for each in preparation.other_axes if each.axis == slicing.orientation)
        pixels = sum(
            shown.resample_mask(plane, 1).sum() for plane in slicing.to_slices(target.labels)
        )
        assert own.pixel == pytest.approx(40 * 1.25 / 256)
        assert pixels * own.pixel**2 == pytest.approx(8 * 10 * 20, rel=0.03)


def test_where_a_square_is_shown_there_is_no_look_across() -> None:
    case = _box((4, 8, 16))
    assert not _prepared(case, zoom=True).other_axes
    assert _prepared(case, zoom=False).other_axes
    assert not _prepared(case, across=False).other_axes


def test_a_preparation_with_other_axes_is_the_same_after_json() -> None:
    preparation = _prepared(_box((4, 8, 16)))
    assert len(preparation.other_axes) == 2
    assert Preprocessing.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation


@pytest.mark.parametrize("number", [0, 17, 30, 47])
def test_probabilities_cut_anew_lie_where_they_did(number: int) -> None:
    order, signs = ORIENTATIONS[number]
    case = _box((4, 8, 16))
    volume = stored(case.volume, order, signs)
    labels = stored_array(case.labels, order, signs)
    axial, sagittal = (SliceGeometry.for_volume(volume, axis) for axis in ("axial", "sagittal"))
    cpu = torch.device("cpu")
    slices = (torch.from_numpy(plane[None] * 0.8) for plane in axial.to_slices(labels))
    cut = ProbabilityVolume.of_slices(slices).cut_anew(axial, sagittal)
    for index, plane in enumerate(sagittal.to_slices(labels)):
        np.testing.assert_array_equal(cut.slice(index, cpu)[0].numpy() > 0.5, plane == 1)
    back = cut.cut_anew(sagittal, axial)
    for index, plane in enumerate(axial.to_slices(labels)):
        np.testing.assert_array_equal(back.slice(index, cpu)[0].numpy() > 0.5, plane == 1)


def _sam2() -> Sam2Backbone:
    """With weights that find an object in most slices, which not all random ones do."""
    return Sam2Backbone.random(seed=1, image_size=128)


class _Shows:
    """A look that shows the truth, slice by slice, and remembers what it was asked for."""

    def __init__(self, labels: npt.NDArray) -> None:
        self.labels = labels
        self.asked: list[int] = []

    def read(
        self,
        backbone: Sam2Backbone,
        prepared: PreprocessedVolume,
        slicing: SliceGeometry,
        scale: PositionScale,
        indices: list[int],
        *_: Any,
    ) -> tuple[ProbabilityVolume, None]:
        self.asked = list(indices)
        cut = slicing.to_slices(self.labels)
        shown = (prepared.resample_mask(cut[index], 1)[None] for index in indices)
        return ProbabilityVolume.of_slices(map(torch.from_numpy, shown)), None


def _too_large(case: SupportCase) -> npt.NDArray:
    """A box of 12 x 10 x 14 voxels drawn too large, except along the axis of the look."""
    drawn = np.zeros_like(case.labels)
    drawn[6:26, 10:20, 6:28] = 1
    return drawn


def _read(case: SupportCase, drawn: npt.NDArray) -> tuple[npt.NDArray, list[int]]:
    """What a look at coronal slices gives that shows `case`'s labels, once `drawn` is drawn, and
    which slices it looked at."""
    backbone = _sam2()
    axial, coronal = (SliceGeometry.for_volume(case.volume, axis) for axis in ("axial", "coronal"))
    preparation = Preprocessing.fit([case], [coronal], size=128)
    shows = _Shows(case.labels)
    side = OrthogonalViewModel(shows, StructureExtents(np.array([[-1.0, 1.0]])))  # type: ignore[arg-type]
    slices = (torch.from_numpy(plane[None] * 0.6) for plane in axial.to_slices(drawn))
    found = side.read(
        ProbabilityVolume.of_slices(slices).cut_anew(axial, coronal),
        preparation.transform(case.volume, coronal),
        coronal,
        [0.0],
        backbone,
        True,
        lambda progress: None,
    ).cut_anew(coronal, axial)
    cpu = torch.device("cpu")
    planes = [found.slice(i, cpu)[0].numpy() > 0.5 for i in range(axial.count)]
    return axial.from_slices(np.stack(planes)), shows.asked


@pytest.mark.parametrize("number", [0, 17, 30, 47])
def test_what_the_look_shows_lies_where_it_is_and_is_asked_for_near_the_structures_only(
    number: int,
) -> None:
    case = _box((12, 10, 14), (1, 5, 1))
    order, signs = ORIENTATIONS[number]
    turned = SupportCase(
        stored(case.volume, order, signs),
        stored_array(case.labels, order, signs),
        case.structures,
    )
    found, asked = _read(turned, stored_array(_too_large(case), order, signs))
    np.testing.assert_array_equal(found, turned.labels == 1)
    assert asked == list(range(8, 22))  # Ten with the box, two more on either side.


def test_slices_between_those_that_are_looked_at_are_as_these_are() -> None:
    case = _box((12, 10, 14))  # A position of the features is five slices wide.
    found, asked = _read(case, _too_large(case))
    assert set(np.diff(asked)) == {5}
    inside = slice(asked[1], asked[2] + 1)
    np.testing.assert_array_equal(found[:, inside], case.labels[:, inside] == 1)
    assert case.labels[:, inside].any(axis=(0, 2)).all()


def test_where_nothing_is_drawn_nothing_is_looked_at() -> None:
    case = _box((12, 10, 14))
    found, asked = _read(case, np.zeros_like(case.labels))
    assert not found.any() and asked == []


def test_of_a_structure_of_many_slices_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _box((12, 10, 14), (1, 5, 1))
    assert _read(case, _too_large(case))[1] == list(range(8, 22))
    monkeypatch.setattr(multiplanar, "MOST_READ", 7)
    found, asked = _read(case, _too_large(case))
    assert asked == list(range(8, 22, 2))
    np.testing.assert_array_equal(found[:, 10:19], case.labels[:, 10:19] == 1)


def test_each_look_counts_two_thirds_of_what_was_read_first() -> None:
    first, *looks = torch.tensor([[0.9], [0.2], [0.4]])
    expected = (first.logit() + 2 / 3 * looks[0].logit() + 2 / 3 * looks[1].logit()) / (7 / 3)
    torch.testing.assert_close(weighed(first, *looks), expected.sigmoid())
    torch.testing.assert_close(weighed(first, first, first), first)
    torch.testing.assert_close(weighed(first), first)


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    options = dict(
        epochs=1, augmented_copies=0, slicing_axis="axial", multi_planar=True, atlas_prior=False
    )
    return FewShotSession(_sam2(), options=options)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([_part(number) for number in ("001", "003")])


@pytest.mark.slow
def test_a_sam2_backbone_looks_across_too_and_with_a_task_read_from_a_file(
    session: FewShotSession, task: LearnedTask, tmp_path: Path
) -> None:
    assert len(task.preparation.other_axes) == 2
    loaded = LearnedTask.load(task.save(tmp_path / "task.oflsam2"))
    first, second = (segmented(session, each, _part("006")) for each in (task, loaded))
    np.testing.assert_array_equal(first, second)
    for axes in ((), task.preparation.other_axes[:1]):
        fewer = replace(task.preparation, other_axes=axes)
        tensors = {
            key: each for key, each in task.state.tensors.items() if not key.startswith("across1.")
        }
        without = replace(task, preparation=fewer, tensors=tensors)
        assert (segmented(session, without, _part("006"))[0] != first[0]).any()


@pytest.mark.slow
def test_a_task_that_learned_to_look_across_does_so_with_any_preset(
    session: FewShotSession, task: LearnedTask
) -> None:
    # As in the panel, whose preset may be another than the one the task was learned with.
    fast = FewShotSession(session.backbone, preset="fast")
    messages: list[str] = []
    list(fast.segment(_part("006").volume, task, lambda each: messages.append(each.message)))
    assert {"sagittal slices", "coronal slices"} < set(messages)


@pytest.mark.slow
def test_a_task_without_what_was_learned_along_another_axis_is_refused(
    session: FewShotSession, task: LearnedTask
) -> None:
    for name in ("across0.tau", "across1.extents", "across1."):
        kept = {key: each for key, each in task.state.tensors.items() if not key.startswith(name)}
        with pytest.raises(TaskError, match="slices along another axis"):
            segmented(session, replace(task, tensors=kept), _part("006"))


@pytest.mark.slow
def test_only_the_preset_accurate_learns_to_look_across() -> None:
    assert [name for name in PRESETS if PRESETS[name].get("multi_planar")] == ["accurate"]
    options = dict(epochs=1, augmented_copies=0, slicing_axis="axial")
    session = FewShotSession(_sam2(), options=options)
    task = session.learn([_part("001")])
    assert not task.preparation.other_axes
    assert not any(name.startswith("across") for name in task.state.tensors)
