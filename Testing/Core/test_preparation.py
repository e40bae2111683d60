"""What the network sees, and the way back: aligned, in scale, alike across cases."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from orientations import ORIENTATIONS, stored, stored_array

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.reading import read_support_case
from OFLSAM2Core.preprocessing.foreground import foreground_bbox
from OFLSAM2Core.preprocessing.intensity_bounds import RoiIntensityBounds
from OFLSAM2Core.preprocessing.intensity_mapping import detect_modality
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume, Preprocessing

SAMPLES = Path(__file__).parents[2] / "Resources" / "SampleData"


def sample(number: str) -> SupportCase:
    path = SAMPLES / f"hippocampus_{number}"
    table = LabelTable.read(SAMPLES / "dataset.json")
    return read_support_case(f"{path}_image.nii.gz", f"{path}_label.nii.gz", table=table)


def learn(*cases: SupportCase, modality: str = "auto", size: int = 256) -> Preprocessing:
    slicings = [SliceGeometry.for_volume(case.volume) for case in cases]
    return Preprocessing.fit(cases, slicings, modality, size)


def prepare(preparation: Preprocessing, volume: Volume) -> PreprocessedVolume:
    return preparation.transform(volume, SliceGeometry.for_volume(volume))


def case_of(array: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> SupportCase:
    labels = np.zeros(array.shape[:3], np.uint8)
    planes, rows, columns = (slice(size // 4, size - size // 4) for size in array.shape[:3])
    labels[planes, rows, columns] = 1
    volume = Volume(array, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]), "made")
    return SupportCase(volume, labels, (Structure("thing", 1),))


def ct(shift: int = 0, seed: int = 0) -> np.ndarray:
    """A body of fat and muscle with a bone, in air."""
    rng = np.random.default_rng(seed)
    array = rng.normal(-1000, 10, (12, 60, 64))
    array[:, 10:50, 8:56] = rng.normal(-90, 15, (12, 40, 48))
    array[:, 16:44, 14:50] = rng.normal(50, 15, (12, 28, 36))
    array[:, 26:34, 28:36] = rng.normal(700, 80, (12, 8, 8))
    array = (array + shift).astype(np.int16)
    return np.clip(array, 0, None) if shift else array


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


# Geometry


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 2.1)], ids=["square", "oblong pixels"])
@pytest.mark.parametrize("pixel", [0.25, 0.5, 1.0, 1.4], ids=lambda pixel: f"{pixel} mm")
def test_a_linear_ramp_stays_exactly_where_it_is_there_and_back(spacing, pixel):
    rows, columns = 60, 28
    y = (np.arange(rows) + 0.5 - rows / 2) * spacing[0]
    x = (np.arange(columns) + 0.5 - columns / 2) * spacing[1]
    ramp = (3 * y[:, None] - 2 * x[None] + 500).astype(np.float32)
    framing = Letterbox.fit((rows, columns), spacing, pixel, 256)
    top, bottom, left, right = framing.box
    seen = framing.to_network(ramp[None])[0]

    # The scale is rounded so that the slice ends at whole network pixels.
    y_step, x_step = rows * spacing[0] / (bottom - top), columns * spacing[1] / (right - left)
    assert y_step == pytest.approx(pixel, rel=0.02)
    assert x_step == pytest.approx(pixel, rel=0.02)
    y_seen = (np.arange(256) + 0.5 - (top + bottom) / 2) * y_step
    x_seen = (np.arange(256) + 0.5 - (left + right) / 2) * x_step
    expected = 3 * y_seen[:, None] - 2 * x_seen[None] + 500
    # Beyond the outermost pixel centres there is nothing to interpolate between.
    inner = np.ix_(
        np.abs(y_seen) < np.abs(y).max() - 2 * y_step, np.abs(x_seen) < np.abs(x).max() - 2 * x_step
    )
    # Enlarging is exact. Averaging over a broken number of pixels is to 0.05 pixels.
    rounding = 0.05 * (3 * spacing[0] + 2 * spacing[1])
    shrunk = pixel > min(spacing)
    np.testing.assert_allclose(seen[inner], expected[inner], atol=rounding if shrunk else 2e-3)

    back = framing.to_grid(seen[None])[0]
    assert back.shape == ramp.shape
    np.testing.assert_allclose(
        back[4:-4, 4:-4], ramp[4:-4, 4:-4], atol=2e-3 if pixel == min(spacing) else 2 * rounding
    )


def test_around_the_slice_there_is_nothing():
    framing = Letterbox.fit((50, 30), (1.0, 1.0), 0.25, 256)
    assert framing.box == (28, 228, 68, 188)
    seen = framing.to_network(np.ones((1, 50, 30)))[0]
    inside = np.zeros((256, 256), bool)
    inside[28:228, 68:188] = True
    assert (seen[inside] == 1).all()
    assert (seen[~inside] == 0).all()


def test_a_disc_lands_at_the_same_place_from_maps_of_any_resolution():
    framing = Letterbox.fit((101, 83), (0.8, 0.8), 0.4, 256)
    centres = []
    for size in (64, 100, 128, 256, 512):
        at = (np.arange(size) + 0.5) / size * 256
        disc = np.exp(-((at[:, None] - 140) ** 2 + (at[None] - 110) ** 2) / 800)
        back = framing.to_grid(disc[None].astype(np.float32))[0]
        weights = back / back.sum()
        centres.append(
            [(weights.sum(1) * np.arange(101)).sum(), (weights.sum(0) * np.arange(83)).sum()]
        )
    np.testing.assert_allclose(centres, np.broadcast_to(centres[-1], (5, 2)), atol=0.02)


def test_a_region_of_the_slice_is_magnified_and_goes_back_to_its_place():
    plane = np.zeros((1, 80, 90), np.float32)
    plane[0, 30:40, 50:62] = 1
    framing = Letterbox.fit((80, 90), (1.0, 1.0), 0.1, 256, region=(25, 45, 44, 68))
    back = framing.to_grid(framing.to_network(plane))
    np.testing.assert_array_equal(back > 0.5, plane > 0.5)
    assert framing.to_network(plane).sum() == pytest.approx(12000, rel=0.02)


def test_tensors_go_back_as_tensors():
    framing = Letterbox.fit((50, 30), (1.0, 1.0), 0.25, 256)
    maps = np.random.default_rng(0).random((3, 64, 64), np.float32)
    as_tensor = framing.to_grid(torch.from_numpy(maps))
    assert isinstance(as_tensor, torch.Tensor)
    np.testing.assert_array_equal(as_tensor.numpy(), framing.to_grid(maps))


@pytest.mark.parametrize(("size", "least"), [(256, 0.99), (64, 0.9)])
def test_structures_survive_the_way_there_and_back(size, least):
    support, case = sample("001"), sample("006")
    prepared = prepare(learn(support), case.volume)
    labels = SliceGeometry.for_volume(case.volume).to_slices(case.labels)
    for structure in case.structures:
        masks = np.stack([prepared.resample_mask(plane, structure.label) for plane in labels])
        assert masks.min() >= 0
        assert masks.max() <= 1
        pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(masks), 256 // size).numpy()
        back = prepared.to_grid(pooled)
        assert dice(back > 0.5, labels == structure.label) > least


def test_a_mask_keeps_its_area_when_it_gets_smaller():
    labels = np.zeros((512, 512), np.uint8)
    labels[100:233, 301:350] = 3
    framing = Letterbox.fit((512, 512), (1.0, 1.0), 2.0, 256)
    small = framing.to_network((labels == 3)[None])[0]
    assert small.sum() * 4 == pytest.approx((labels == 3).sum(), rel=1e-3)


def test_support_slices_fit_and_the_largest_fills_the_image():
    cases = [sample("001"), sample("003"), sample("004")]
    preparation = learn(*cases)
    boxes = [prepare(preparation, case.volume).valid_region for case in cases]
    assert max(bottom - top for top, bottom, _, _ in boxes) == 256
    assert preparation.pixel == pytest.approx(52 / 256)


def test_a_thing_has_the_same_size_for_the_network_at_any_resolution():
    preparation = learn(case_of(np.random.default_rng(0).random((8, 60, 64))))
    areas = []
    for factor in (1, 2, 3):
        fine = case_of(np.zeros((8, 40 * factor, 48 * factor)), (1 / factor, 1 / factor, 1))
        prepared = prepare(preparation, fine.volume)
        areas.append(prepared.resample_mask(fine.labels[4], 1).sum())
    np.testing.assert_allclose(areas, areas[0], rtol=1e-3)


def test_a_larger_volume_is_scaled_down_whole_and_the_user_is_warned():
    preparation = learn(case_of(np.random.default_rng(0).random((8, 60, 64))))
    large = np.random.default_rng(1).random((8, 96, 90))
    prepared = prepare(preparation, Volume(large, name="giant"))
    assert prepared.valid_region == (0, 256, 8, 248)
    assert "'giant'" in prepared.note
    assert "1.50 times more" in prepared.note
    assert prepare(preparation, Volume(large[:, :60, :64])).note == ""
    back = prepared.to_grid(np.ones((1, 256, 256), np.float32))
    np.testing.assert_allclose(back, np.ones((1, 96, 90)), atol=1e-5)


def in_air(array: np.ndarray, row: int, column: int, air: float, noise: float) -> np.ndarray:
    """The same in a field of view of 96 x 100 pixels, with a table below."""
    canvas = np.random.default_rng(3).normal(air, noise, (len(array), 96, 100))
    canvas[:, 90:92, 5:95] = array.max()
    canvas[:, row : row + array.shape[1], column : column + array.shape[2]] = array
    return canvas.astype(np.float32)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (25, 36), (12, 3)])
@pytest.mark.parametrize("kind", ["CT", "MR"])
def test_a_larger_field_of_view_loses_its_air_and_the_body_keeps_its_size(row, column, kind):
    body = ct() if kind == "CT" else sample("001").volume.array[:, :48, :40]
    preparation = learn(case_of(body))
    large = in_air(body, row, column, *((-1000, 10) if kind == "CT" else (body.min() + 5, 3)))
    inside = np.zeros(large.shape, np.uint8)
    rows, columns = body.shape[1:]
    inside[:, row + 10 : row + rows - 10, column + 8 : column + columns - 8] = 1
    here = inside[:, row : row + rows, column : column + columns]
    wanted = prepare(preparation, case_of(body).volume).resample_mask(here[5], 1)
    whole = case_of(large).volume
    prepared = prepare(preparation, whole)
    assert prepared.note == ""
    found = prepared.resample_mask(inside[5], 1)
    assert found.sum() == pytest.approx(wanted.sum(), rel=0.03)
    np.testing.assert_array_equal(prepared.to_grid(found[None])[0] > 0.5, inside[5] == 1)
    for order, signs in ORIENTATIONS[::11]:
        other = prepare(preparation, stored(whole, order, signs))
        np.testing.assert_array_equal(other.image(5), prepared.image(5))


def test_a_body_that_is_larger_than_the_support_is_scaled_down_whole():
    preparation = learn(case_of(np.random.default_rng(0).random((8, 60, 64))))
    large = np.zeros((8, 120, 120), np.float32)
    large[:, 4:100, 20:110] = np.random.default_rng(1).random((8, 96, 90)) + 1
    prepared = prepare(preparation, case_of(large).volume)
    assert "1.50 times more" in prepared.note
    shown = prepared.to_grid(np.ones((1, 256, 256), np.float32))[0] > 0.5
    assert shown[4:100, 20:110].all() and not shown[100:].any()


def test_a_body_is_found_without_a_table_and_in_large_slices_too():
    array = np.zeros((4, 400, 300), np.float32)
    array[:, 90:311, 51:200] = 100
    array[:, 330:334, 20:280] = 100
    top, bottom, left, right = foreground_bbox(array)
    assert 80 <= top <= 90 and 311 <= bottom <= 321
    assert 45 <= left <= 51 and 200 <= right <= 206
    array[:, 100:300, 220:290] = 100
    assert (
        foreground_bbox(array)[2] == left and 290 <= foreground_bbox(array)[3] <= 292
    )  # The other leg.
    assert foreground_bbox(np.full((3, 20, 30), 7, np.float32)) == (0, 20, 0, 30)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_volume_of_very_flat_slices_works(rows):
    preparation = learn(case_of(np.random.default_rng(0).random((8, 60, 64))))
    prepared = prepare(preparation, Volume(np.random.default_rng(1).random((5, rows, 64))))
    assert prepared.image(2).shape == (3, 256, 256)
    assert prepared.to_grid(prepared.image(2)).shape == (3, rows, 64)


def test_the_image_does_not_depend_on_how_the_volume_is_stored():
    case = sample("006")
    preparation = learn(sample("001"))
    expected = prepare(preparation, case.volume)
    for order, signs in ORIENTATIONS:
        other = prepare(preparation, stored(case.volume, order, signs))
        assert other.curve == expected.curve
        for index in (0, 17):
            np.testing.assert_array_equal(other.image(index), expected.image(index))


def test_what_is_learned_does_not_depend_on_how_the_support_is_stored():
    for array in (ct(), sample("001").volume.array):
        case = case_of(array)
        expected = learn(case)
        for order, signs in ORIENTATIONS[::7]:
            labels = stored_array(case.labels, order, signs)
            volume = stored(case.volume, order, signs)
            assert learn(SupportCase(volume, labels, case.structures)) == expected


# Grey values


def test_images_are_grey_three_times_from_0_to_1():
    prepared = prepare(learn(sample("001")), sample("006").volume)
    image = prepared.image(15)
    assert (image.shape, image.dtype) == ((3, 256, 256), np.float32)
    assert 0 <= image.min() < 0.1
    assert 0.9 < image.max() <= 1
    np.testing.assert_array_equal(image[0], image[1])
    np.testing.assert_array_equal(image[0], image[2])


@pytest.mark.parametrize("shift", [0, 1000, 1024])
def test_ct_is_known_by_its_numbers_shifted_or_not(shift):
    assert detect_modality([ct(shift, seed) for seed in range(3)]) == "CT"
    assert learn(case_of(ct(shift))).modality == "CT"


def test_mr_is_not_taken_for_ct():
    arrays = [sample(number).volume.array for number in ("001", "003", "004", "006", "007")]
    assert detect_modality(arrays) == "MR"
    for array in arrays:
        assert detect_modality([array]) == "MR"
    assert detect_modality([ct(), arrays[0]]) == "MR"


def test_the_same_ct_number_is_the_same_grey_in_every_volume():
    preparation = learn(case_of(ct(seed=1)), case_of(ct(seed=2)))
    one = ct(seed=3)
    other = one.copy()
    other[:, :20] = 3000  # a metal implant must not change what the rest looks like
    same = one == other
    greys = [prepare(preparation, Volume(array)) for array in (one, other)]
    for index in range(len(one)):
        seen = [prepared.grey(index)[0] for prepared in greys]
        here = SliceGeometry.for_volume(Volume(one)).to_slices(same)[index]
        np.testing.assert_array_equal(seen[0][here], seen[1][here])


def test_the_ct_curve_shows_what_is_around_the_structures_and_soft_tissue_best():
    preparation = learn(case_of(ct()))
    assert preparation.curve is not None
    intensities, greys = preparation.curve
    assert -1100 < intensities[0] < 0 < 600 < intensities[-1] < 1100
    assert (greys[0], greys[-1]) == pytest.approx((0, 1))
    assert (np.diff(intensities) > 0).all()
    assert (np.diff(greys) > 0).all()
    fat, muscle = np.interp([-90, 50], intensities, greys)
    # In a plain window from the first to the last intensity these would be 0.17 or less apart.
    assert muscle - fat > 0.25


def test_mr_looks_the_same_at_any_scale_and_offset():
    case = sample("006")
    preparation = learn(sample("001"))
    scaled = replace(case.volume, array=case.volume.array.astype(np.float32) * 7.3 - 400)
    one, other = prepare(preparation, case.volume), prepare(preparation, scaled)
    np.testing.assert_allclose(one.image(15), other.image(15), atol=1e-4)


def test_a_few_stuck_voxels_do_not_darken_mr():
    case = sample("006")
    preparation = learn(sample("001"))
    spoiled = case.volume.array.copy()
    spoiled.flat[:: spoiled.size // 60] = 30000
    one = prepare(preparation, case.volume)
    other = prepare(preparation, replace(case.volume, array=spoiled))
    assert np.median(np.abs(one.grey(15) - other.grey(15))) < 0.02


def test_a_frame_of_padding_does_not_change_mr():
    case = sample("006")
    preparation = learn(sample("001"))
    one = prepare(preparation, case.volume)
    padded = np.pad(case.volume.array, ((0, 0), (10, 10), (10, 10)))
    other = prepare(preparation, replace(case.volume, array=padded))
    np.testing.assert_allclose(other.curve[0], one.curve[0], rtol=0.02)


def test_an_even_volume_is_black_not_an_error():
    preparation = learn(sample("001"))
    image = prepare(preparation, Volume(np.full((5, 20, 20), 7, np.int16))).image(2)
    assert np.isfinite(image).all()


def test_a_given_modality_is_obeyed_and_an_unknown_one_refused():
    assert learn(sample("001"), modality="CT").modality == "CT"
    assert learn(case_of(ct()), modality="MR").modality == "MR"
    with pytest.raises(InputError, match="no modality 'PET-ish'"):
        learn(sample("001"), modality="PET-ish")


# Sequences


def clip(frames: int = 4) -> SupportCase:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)
    return SupportCase(Volume(array, name="clip"), array[..., 0] // 128, (Structure("a", 1),))


def test_colour_frames_keep_their_colours():
    case = clip()
    prepared = prepare(learn(case), case.volume)
    assert prepared.valid_region == (32, 224, 0, 256)
    np.testing.assert_allclose(
        prepared.grey(2), case.volume.array[2].transpose(2, 0, 1) / 255, atol=1e-6
    )
    still = Volume(np.broadcast_to(np.uint8([10, 120, 250]), (4, 48, 64, 3)), name="still")
    image = prepare(learn(case), still).image(2)[:, 32:224]
    np.testing.assert_allclose(image[:, 96, 128], np.array([10, 120, 250]) / 255, atol=1e-5)
    assert np.ptp(image, axis=(1, 2)).max() < 1e-5


def test_volumes_and_sequences_do_not_mix():
    with pytest.raises(InputError, match="volumes and sequences mixed"):
        learn(sample("001"), clip())
    with pytest.raises(TaskError, match="'clip' is a sequence of frames.*learned from volumes"):
        prepare(learn(sample("001")), clip().volume)
    with pytest.raises(TaskError, match="is a volume.*learned from sequences"):
        prepare(learn(clip()), sample("001").volume)


# Storage


@pytest.mark.parametrize(
    "preparation",
    [
        learn(sample("001"), sample("003")),
        learn(case_of(ct())),
        learn(clip(), size=512),
    ],
    ids=["MR", "CT", "RGB"],
)
def test_a_preparation_is_the_same_after_json(preparation):
    assert Preprocessing.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation


def test_every_field_comes_back_from_json():
    plain = Preprocessing("MR", 0.7)
    full = Preprocessing(
        modality="CT",
        pixel=0.9,
        size=128,
        curve=((-100.0, 0.0, 200.0), (0.0, 0.4, 1.0)),
        brightness=RoiIntensityBounds((0.2, 0.8), (1.0, 2.0, 3.0, 4.0)),
        further_curves=(None, ((0.0, 5.0), (0.0, 1.0))),
    )
    for field in fields(Preprocessing):
        assert getattr(full, field.name) != getattr(plain, field.name)
    assert Preprocessing.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_window_given_by_hand_is_black_below_and_white_above_in_every_volume(modality):
    case = case_of(ct())
    window = (-160.0, 240.0)
    prepared = prepare(
        Preprocessing.fit([case], [SliceGeometry.for_volume(case.volume)], modality, window=window),
        case_of(ct(seed=1)).volume,
    )
    grey, plane = prepared.grey(6)[0], prepared.stack[6]
    np.testing.assert_allclose(grey, np.clip((plane + 160.0) / 400, 0, 1), atol=1e-5)
    assert grey.min() == 0 and grey.max() == 1
