"""A square around the structures besides whole slices: wanted by the support, found in targets.

Real hippocampi, in canvases of texture four times as large, each somewhere else.
"""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from orientations import ORIENTATIONS, stored, stored_array
from scipy import ndimage
from whole_volumes import segmented

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.ofl_sam2_atlas import view_training
from OFLSAM2Core.methods.ofl_sam2_atlas.roi_fusion import by_both
from OFLSAM2Core.methods.ofl_sam2_atlas.state import Metadata
from OFLSAM2Core.methods.ofl_sam2_atlas.support_encoding import SupportSlice
from OFLSAM2Core.methods.ofl_sam2_atlas.view_model import WEIGHT
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.preprocessing import Preprocessing
from OFLSAM2Core.preprocessing.roi_crop import bbox_center, crop_around, roi_side
from OFLSAM2Core.session import FewShotSession

CANVAS = 120
PLACES = {"001": (10, 60), "003": (60, 20), "006": (50, 75), "007": (8, 8)}


def _in_canvas(number: str) -> SupportCase:
    case = sample_data().read_case(f"hippocampus_{number}")
    image, labels = case.volume.array[13:18], case.labels[13:18]
    rng = np.random.default_rng(int(number))
    noise = ndimage.gaussian_filter(rng.normal(size=(len(image), CANVAS, CANVAS)), (0.5, 2, 2))
    canvas = image.mean() + noise / noise.std() * image.std()
    around = np.zeros(canvas.shape, np.uint8)
    row, column = PLACES[number]
    here = (slice(None), slice(row, row + image.shape[1]), slice(column, column + image.shape[2]))
    canvas[here], around[here] = image, labels
    volume = Volume(canvas.astype(np.float32), case.volume.affine, number)
    return SupportCase(volume, around, case.structures)


def _box(shape: tuple[int, int, int], rows: slice, columns: slice) -> SupportCase:
    labels = np.zeros(shape, np.uint8)
    labels[:, rows, columns] = 1
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    return SupportCase(Volume(image, name="made"), labels, (Structure("box", 1),))


def _learn(*cases: SupportCase, zoom: bool = True) -> Preprocessing:
    slicings = [SliceGeometry.for_volume(case.volume) for case in cases]
    return Preprocessing.fit(cases, slicings, roi=zoom)


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    options = dict(
        epochs=10, augmented_copies=0, slicing_axis="axial", roi_refinement=True, atlas_prior=False
    )
    return FewShotSession("litemedsam", "cpu", options=options)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([_in_canvas(number) for number in ("001", "003")])


def test_the_square_has_room_around_the_largest_structures_of_the_support() -> None:
    small, large = (_box((4, 100, 90), slice(10, end), slice(20, 30)) for end in (20, 30))
    slicing = SliceGeometry.for_volume(small.volume)
    labels = [slicing.to_slices(case.labels) for case in (small, large)]
    assert roi_side(labels, [slicing, slicing]) == pytest.approx(1.6 * 20)
    assert roi_side(labels[:1], [slicing]) == pytest.approx(1.6 * 10)


def test_where_structures_fill_much_of_a_slice_there_is_no_square() -> None:
    case = _box((4, 100, 90), slice(10, 60), slice(20, 30))
    assert _learn(case).roi_pixel_spacing is None
    narrow = _box((4, 100, 90), slice(10, 50), slice(20, 30))
    assert _learn(narrow).roi_pixel_spacing is not None
    assert _learn(narrow, zoom=False).roi_pixel_spacing is None


def test_the_square_stays_within_the_slice_and_takes_all_of_a_narrow_one() -> None:
    slicing = SliceGeometry.for_volume(Volume(np.zeros((4, 100, 30), np.float32)))
    assert crop_around((50, 15), 40, slicing) == (30, 70, 0, 30)
    assert crop_around((5, 15), 40, slicing) == (0, 40, 0, 30)
    assert crop_around((99, 15), 40, slicing) == (60, 100, 0, 30)


def test_a_pixel_of_the_network_is_as_large_in_every_volume_and_finer_than_of_whole_slices() -> (
    None
):
    preparation = _learn(_box((4, 100, 90), slice(10, 30), slice(20, 30)))
    assert preparation.pixel == pytest.approx(100 / 256)
    assert preparation.roi_pixel_spacing == pytest.approx(32 / 256)
    covered = []
    for shape in ((4, 100, 90), (4, 300, 250)):
        case = _box(shape, slice(40, 56), slice(50, 62))
        slicing = SliceGeometry.for_volume(case.volume)
        labels = slicing.to_slices(case.labels)
        prepared = preparation.transform_roi(case.volume, slicing, bbox_center(labels))
        covered.append(prepared.resample_mask(labels[1], 1))
        # And back again: where it was, and nothing outside the square.
        back = prepared.to_grid(covered[-1][np.newaxis])[0]
        np.testing.assert_array_equal(back > 0.5, labels[1] == 1)
    np.testing.assert_allclose(covered[0], covered[1], atol=1e-6)
    assert covered[0].sum() == pytest.approx(16 * 12 * 8**2, rel=1e-3)


def test_a_point_of_the_network_lies_where_it_does_on_the_slice() -> None:
    region = (30, 70, 0, 40)
    framing = Letterbox.fit((100, 90), (1.0, 1.5), 0.3, 256, region)
    plane = np.zeros((1, 100, 90), np.uint8)
    plane[0, 40:50, 8:20] = 1
    rows, columns = bounding_box(framing.to_network(plane)[0] > 0.5)
    for edge, expected in (("start", (40, 8)), ("stop", (50, 20))):
        found = framing.point_on_slice(getattr(rows, edge), getattr(columns, edge))
        np.testing.assert_allclose(found, expected, atol=0.3)


def test_the_middle_of_what_is_drawn_is_between_its_edges() -> None:
    volume = ProbabilityVolume.empty(2, 3, 16)
    assert volume.middle() is None
    drawn = torch.zeros(2, 16, 16)
    drawn[0, 2:6, 3] = 0.9
    volume.put(1, drawn)
    drawn[1, 9, 3:8], drawn[0, 15] = 0.6, 0.4
    volume.put(2, drawn)
    assert volume.middle() == (6, 5.5)


def test_two_readings_are_weighed_within_the_square() -> None:
    case = _box((3, 100, 90), slice(40, 60), slice(50, 62))
    preparation, slicing = _learn(case), SliceGeometry.for_volume(case.volume)
    prepared = preparation.transform(case.volume, slicing)
    square = preparation.transform_roi(case.volume, slicing, (50, 56))

    def everywhere(probability: float) -> ProbabilityVolume:
        volume = ProbabilityVolume.empty(1, 3, 256)
        for index in range(3):
            volume.put(index, torch.full((1, 256, 256), probability))
        return volume

    cpu = torch.device("cpu")
    far = 1 / (1 + 9 ** ((WEIGHT - 1) / (1 + WEIGHT)))
    for one, other, expected in ((0.8, 0.8, 0.8), (0.9, 0.1, far), (0.1, 0.9, 1 - far), (0, 0, 0)):
        fused = by_both(everywhere(one), prepared, everywhere(other), square, cpu)
        assert fused.count == 3
        top, bottom, left, right = square.framing.region
        assert fused.slice(0, cpu).shape == (1, bottom - top, right - left)
        torch.testing.assert_close(
            fused.slice(1, cpu),
            torch.full((1, bottom - top, right - left), float(expected)),
            atol=0.01,  # In bytes 0.9 and 0.1 are not quite opposite.
            rtol=0,
        )


def test_a_preparation_with_a_square_is_the_same_after_json() -> None:
    preparation = _learn(_box((4, 100, 90), slice(10, 30), slice(20, 30)))
    assert Preprocessing.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation


@pytest.mark.slow
def test_only_around_the_structures_does_a_closer_look_change_anything(
    session: FewShotSession, task: LearnedTask
) -> None:
    assert _preprocessing(task).roi_pixel_spacing is not None
    side = _preprocessing(task).roi_pixel_spacing * _preprocessing(task).size
    case = _in_canvas("007")
    order, signs = ORIENTATIONS[30]
    turned = replace(
        case,
        volume=stored(case.volume, order, signs),
        labels=stored_array(case.labels, order, signs),
    )
    without = FewShotSession(
        session.backbone, options={**session.changes.values, "roi_refinement": False}
    )
    whole, both = (segmented(each, task, turned) for each in (without, session))
    slicing = SliceGeometry.for_volume(turned.volume, "axial")
    changed = slicing.to_slices((whole != both).any(axis=0)).any(axis=0)
    truth = slicing.to_slices(turned.labels)
    top, bottom, left, right = crop_around(bbox_center(truth), 1.3 * side, slicing)
    assert changed[top:bottom, left:right].any()
    changed[top:bottom, left:right] = False
    assert not changed.any()
    mine, theirs = slicing.to_slices(both[0]) > 0, truth > 0
    assert 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.4


@pytest.mark.slow
def test_something_larger_is_not_taken_for_a_structure_where_the_mapping_network_finds_none(
    session: FewShotSession, task: LearnedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_alone = FewShotSession(
        session.backbone, options={**session.changes.values, "roi_refinement": False}
    )
    case = _in_canvas("007")  # In the upper left corner.
    wanted = segmented(whole_alone, task, case)[0]
    smoothed = ProbabilityVolume.smoothed

    def with_decoy(self: ProbabilityVolume, *args: Any) -> ProbabilityVolume:
        drawn = smoothed(self, *args)
        slices = [drawn.slice(index, torch.device("cpu")) for index in range(drawn.count)]
        for each in slices:
            each[0, 180:198, 180:198] = 0.95
        return ProbabilityVolume.of_slices(slices)

    monkeypatch.setattr(ProbabilityVolume, "smoothed", with_decoy)
    found = segmented(whole_alone, task, case)[0]
    assert (wanted == 1).any() and np.mean(found[wanted > 0] == wanted[wanted > 0]) > 0.97
    assert found.astype(bool).sum() < 1.05 * wanted.astype(bool).sum()


def test_a_sam2_backbone_looks_closer_too_and_with_a_task_read_from_a_file(
    tmp_path: Path,
) -> None:
    options = dict(
        epochs=1, augmented_copies=1, slicing_axis="axial", roi_refinement=True, atlas_prior=False
    )
    # Not all random weights find an object.
    session = FewShotSession(Sam2Backbone.random(seed=1, image_size=128), options=options)
    task = session.learn([_in_canvas(number) for number in ("001", "003")])
    assert _preprocessing(task).roi_pixel_spacing is not None
    loaded = LearnedTask.load(task.save(tmp_path / "task.oflsam2"))
    first, second = (segmented(session, each, _in_canvas("006")) for each in (task, loaded))
    assert first[0].any()
    np.testing.assert_array_equal(first, second)


def test_a_task_without_what_was_learned_from_squares_is_refused(
    session: FewShotSession, task: LearnedTask
) -> None:
    kept = {name: each for name, each in task.state.tensors.items() if name != "close_up.tau"}
    with pytest.raises(TaskError, match="squares around its structures"):
        segmented(
            session, replace(task, state=replace(task.state, tensors=kept)), _in_canvas("006")
        )


def test_features_of_whole_slices_are_gone_before_squares_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode = view_training.encode_support
    earlier: list[weakref.ref] = []

    def watched(*args: Any) -> list[SupportSlice]:
        assert [each() for each in earlier] == [None] * len(earlier)
        slices = encode(*args)
        earlier.extend(weakref.ref(each.stored) for each in slices)
        return slices

    monkeypatch.setattr(view_training, "encode_support", watched)
    options = dict(
        epochs=1, augmented_copies=1, slicing_axis="axial", roi_refinement=True, atlas_prior=False
    )
    session = FewShotSession(Sam2Backbone.random(seed=3, image_size=128), options=options)
    session.learn([_in_canvas(number) for number in ("001", "003")])
    assert len(earlier) == 2 * 2 * 2 * 5


def test_without_zoom_no_squares_are_learned_from() -> None:
    options = dict(
        epochs=1, augmented_copies=0, slicing_axis="axial", roi_refinement=False, atlas_prior=False
    )
    session = FewShotSession(Sam2Backbone.random(seed=3, image_size=128), options=options)
    task = session.learn([_in_canvas("001")])
    assert _preprocessing(task).roi_pixel_spacing is None
    assert not any(name.startswith("close_up") for name in task.state.tensors)


def _preprocessing(task: LearnedTask) -> Preprocessing:
    return Metadata.decode(task.state).preprocessing
