"""A square around the structures instead of whole slices: wanted by the support, found in targets.

Real hippocampi, in canvases of texture four times as large, each somewhere else.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from orientations import ORIENTATIONS, stored
from scipy import ndimage

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.field_of_view import centre_of, square_around, wanted_side
from OFLSAM2Core.framing import Framing
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.options import MethodOptions
from OFLSAM2Core.preparation import Preparation
from OFLSAM2Core.session import FewShotSession
from OFLSAM2Core.slicing import Slicing
from OFLSAM2Core.structures import Structure
from OFLSAM2Core.volume import SupportCase, Volume

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


def _learn(*cases: SupportCase, zoom: bool = True) -> Preparation:
    slicings = [Slicing.for_volume(case.volume) for case in cases]
    return Preparation.learn(cases, slicings, zoom=zoom)


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    options = MethodOptions(epochs=10, augmented_copies=0, slicing_axis="axial", zoom=True)
    return FewShotSession("litemedsam", "cpu", options=options)


@pytest.fixture(scope="module")
def task(session: FewShotSession) -> LearnedTask:
    return session.learn([_in_canvas(number) for number in ("001", "003")])


def test_the_square_has_room_around_the_largest_structures_of_the_support() -> None:
    small, large = (_box((4, 100, 90), slice(10, end), slice(20, 30)) for end in (20, 30))
    slicing = Slicing.for_volume(small.volume)
    labels = [slicing.cut(case.labels) for case in (small, large)]
    assert wanted_side(labels, [slicing, slicing]) == pytest.approx(1.6 * 20)
    assert wanted_side(labels[:1], [slicing]) == pytest.approx(1.6 * 10)


def test_where_structures_fill_much_of_a_slice_it_is_shown_whole() -> None:
    case = _box((4, 100, 90), slice(10, 60), slice(20, 30))
    assert _learn(case).whole is None
    narrow = _box((4, 100, 90), slice(10, 50), slice(20, 30))
    assert _learn(narrow).whole is not None
    assert _learn(narrow, zoom=False).whole is None


def test_the_square_stays_within_the_slice_and_takes_all_of_a_narrow_one() -> None:
    slicing = Slicing.for_volume(Volume(np.zeros((4, 100, 30), np.float32)))
    assert square_around((50, 15), 40, slicing) == (30, 70, 0, 30)
    assert square_around((5, 15), 40, slicing) == (0, 40, 0, 30)
    assert square_around((99, 15), 40, slicing) == (60, 100, 0, 30)


def test_a_pixel_of_the_network_is_as_large_in_every_volume_and_finer_than_of_whole_slices() -> (
    None
):
    preparation = _learn(_box((4, 100, 90), slice(10, 30), slice(20, 30)))
    whole = preparation.whole
    assert whole is not None and whole.pixel == pytest.approx(100 / 256)
    assert preparation.pixel == pytest.approx(32 / 256)
    covered = []
    for shape in ((4, 100, 90), (4, 300, 250)):
        case = _box(shape, slice(40, 56), slice(50, 62))
        slicing = Slicing.for_volume(case.volume)
        labels = slicing.cut(case.labels)
        prepared = preparation.prepare(case.volume, slicing, centre_of(labels))
        covered.append(prepared.mask_to_network(labels[1], 1))
        assert prepared.note == ""
        # And back again: where it was, and nothing outside the square.
        back = prepared.to_grid(covered[-1][np.newaxis])[0]
        np.testing.assert_array_equal(back > 0.5, labels[1] == 1)
    np.testing.assert_allclose(covered[0], covered[1], atol=1e-6)
    assert covered[0].sum() == pytest.approx(16 * 12 * 8**2, rel=1e-3)


def test_it_is_known_where_the_square_cuts_something_off() -> None:
    slicing = Slicing.for_volume(Volume(np.zeros((4, 100, 90), np.float32)))
    region = square_around((50, 10), 40, slicing)
    framing = Framing.fit((100, 90), (1, 1), 0.2, 256, region)
    assert region == (30, 70, 0, 40)
    for row, column, expected in (
        (30, 20, True),
        (69, 20, True),
        (50, 39, True),
        (50, 0, False),  # Here the slice ends.
        (50, 20, False),
    ):
        plane = np.zeros((100, 90), np.uint8)
        plane[row, column] = 2
        assert framing.cuts(plane) is expected


def test_a_square_cannot_be_shown_without_knowing_where() -> None:
    case = _box((4, 100, 90), slice(10, 30), slice(20, 30))
    with pytest.raises(ValueError, match="where the structures are"):
        _learn(case).prepare(case.volume, Slicing.for_volume(case.volume))


def test_a_preparation_with_a_square_is_the_same_after_json() -> None:
    preparation = _learn(_box((4, 100, 90), slice(10, 30), slice(20, 30)))
    assert Preparation.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation


def test_structures_are_found_where_they_are(session: FewShotSession, task: LearnedTask) -> None:
    whole = task.preparation.whole
    assert whole is not None
    for number, (order, signs) in zip(("006", "007"), ORIENTATIONS[::30], strict=False):
        case = _in_canvas(number)
        volume = stored(case.volume, order, signs)
        slicing = Slicing.for_volume(volume, "axial")
        prepared = whole.prepare(volume, slicing)
        found = session.method.locate(
            session.backbone, prepared, slicing, task, lambda progress: None, session.timings
        )
        truth = centre_of(Slicing.for_volume(case.volume, "axial").cut(case.labels))
        side = task.preparation.pixel * task.preparation.size
        assert np.abs(np.subtract(found, truth)).max() < 0.15 * side


def test_labels_come_back_on_the_whole_slice(session: FewShotSession, task: LearnedTask) -> None:
    case = _in_canvas("006")
    labels, confidence = np.zeros((2, *case.labels.shape), np.uint8)
    for result in session.segment(case.volume, task):
        labels[result.place], confidence[result.place] = result.labels, result.confidence
    mine, theirs = labels > 0, case.labels > 0
    assert 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.5
    rows, columns = (np.flatnonzero(mine.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    side = task.preparation.pixel * task.preparation.size
    assert np.ptp(rows) < side and np.ptp(columns) < side
    # Far from the square, that nothing is there is as sure as can be.
    assert confidence[:, :10, :10].min() == confidence.max()


def test_a_sam2_backbone_is_shown_squares_too_and_finds_them_with_a_task_read_from_a_file(
    tmp_path: Path,
) -> None:
    options = MethodOptions(epochs=1, augmented_copies=1, slicing_axis="axial", zoom=True)
    session = FewShotSession(Sam2Backbone.random(seed=3, image_size=128), options=options)
    task = session.learn([_in_canvas(number) for number in ("001", "003")])
    assert task.preparation.whole is not None
    volume = _in_canvas("006").volume
    loaded = LearnedTask.load(task.save(tmp_path / "task.oflsam2"))
    first, second = (
        {result.index: result.confidence for result in session.segment(volume, each)}
        for each in (task, loaded)
    )
    assert sorted(first) == sorted(second) == list(range(5))
    for index, confidence in first.items():
        assert confidence.shape == (CANVAS, CANVAS)
        np.testing.assert_array_equal(confidence, second[index])


def test_whole_slices_are_shown_unless_zoom_is_asked_for() -> None:
    options = MethodOptions(epochs=1, augmented_copies=0, slicing_axis="axial")
    session = FewShotSession(Sam2Backbone.random(seed=3, image_size=128), options=options)
    task = session.learn([_in_canvas("001")])
    assert task.preparation.whole is None
    assert not any(name.startswith("locator") for name in task.tensors)
