"""The metrics against SimpleITK's own filters, on real labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.evaluation.metrics import SegmentationMetrics, compute_metrics

SAMPLES = Path(__file__).parents[2] / "Resources" / "SampleData"


@pytest.fixture(scope="module")
def real_mask() -> np.ndarray:
    labels = sitk.ReadImage(str(SAMPLES / "hippocampus_001_label.nii.gz"))
    return sitk.GetArrayFromImage(labels) == 1


def image_of(mask: np.ndarray, spacing: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    return image


def surface_distances_by_simpleitk(
    one: sitk.Image, other: sitk.Image
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the surface voxels of each to the surface of the other."""
    surfaces = [sitk.LabelContour(image, fullyConnected=False) for image in (one, other)]
    maps = [
        sitk.SignedMaurerDistanceMap(surface, squaredDistance=False, useImageSpacing=True)
        for surface in surfaces
    ]
    at = [sitk.GetArrayFromImage(surface) > 0 for surface in surfaces]
    # The map is negative or zero on the surface itself, where the distance is zero.
    to = [np.clip(sitk.GetArrayFromImage(distance), 0, None) for distance in maps]
    return to[1][at[0]], to[0][at[1]]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.5, 0.8)])
@pytest.mark.parametrize("shift", [(0, 1, 0), (2, -1, 3)])
def test_all_metrics_equal_those_of_simpleitk_on_real_labels(real_mask, spacing, shift):
    moved = np.roll(real_mask, shift, (0, 1, 2))
    moved[::3] &= np.roll(moved, 1, 2)[::3]  # Not the same shape only elsewhere.
    found = compute_metrics(real_mask, moved, spacing)

    one, other = image_of(real_mask, spacing), image_of(moved, spacing)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(one, other)
    assert found.dice == pytest.approx(overlap.GetDiceCoefficient(1), abs=1e-6)

    hausdorff = sitk.HausdorffDistanceImageFilter()
    hausdorff.Execute(one, other)
    assert found.average_hausdorff == pytest.approx(
        hausdorff.GetAverageHausdorffDistance(), abs=1e-5
    )

    there, back = surface_distances_by_simpleitk(one, other)
    assert found.hd95 == pytest.approx(
        max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-4
    )
    assert found.assd == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-4)


def test_average_hausdorff_is_the_mean_distance_of_voxels_to_the_other_mask_both_ways():
    truth = np.zeros((3, 4, 12), bool)
    prediction = truth.copy()
    truth[1, 1, 2:4] = True  # Two voxels, at 2 and 3.
    prediction[1, 1, 3:7] = True  # Four: 3, 4, 5 and 6.
    found = compute_metrics(truth, prediction, (1.0, 1.0, 2.0))
    there, back = (2 + 0) / 2, (0 + 2 + 4 + 6) / 4
    assert found.average_hausdorff == pytest.approx((there + back) / 2)
    assert found.dice == pytest.approx(2 * 1 / 6)


def test_identical_masks_have_dice_one_and_distance_zero(real_mask):
    assert compute_metrics(real_mask, real_mask, (1.0, 1.0, 1.0)) == SegmentationMetrics(
        1.0, 0.0, 0.0, 0.0
    )


def test_the_metrics_are_symmetric_and_distances_scale_with_the_spacing(real_mask):
    moved = np.roll(real_mask, (1, 2), (0, 2))
    there = compute_metrics(real_mask, moved, (1.0, 0.5, 0.5))
    back = compute_metrics(moved, real_mask, (1.0, 0.5, 0.5))
    doubled = compute_metrics(real_mask, moved, (2.0, 1.0, 1.0))
    assert close(there, back)
    assert doubled.hd95 == pytest.approx(2 * there.hd95, rel=1e-5)
    assert doubled.assd == pytest.approx(2 * there.assd, rel=1e-5)
    assert doubled.average_hausdorff == pytest.approx(2 * there.average_hausdorff, rel=1e-5)


def close(one: SegmentationMetrics, other: SegmentationMetrics) -> bool:
    return np.allclose(
        [one.dice, one.hd95, one.average_hausdorff, one.assd],
        [other.dice, other.hd95, other.average_hausdorff, other.assd],
        rtol=1e-5,
    )


def test_masks_at_the_border_of_the_volume_are_measured_like_those_inside():
    truth = np.zeros((6, 8, 8), bool)
    prediction = truth.copy()
    truth[:3, :4, :4] = True
    prediction[:3, :4, :6] = True
    inside = compute_metrics(np.pad(truth, 4), np.pad(prediction, 4), (1.0, 1.0, 1.0))
    assert close(compute_metrics(truth, prediction, (1.0, 1.0, 1.0)), inside)


def test_empty_masks_have_the_values_that_the_module_states():
    empty = np.zeros((4, 4, 4), bool)
    drawn = empty.copy()
    drawn[1:3, 1:3, 1:3] = True
    spacing = (1.0, 1.0, 1.0)
    assert np.isnan(compute_metrics(empty, empty, spacing).dice)
    for truth, prediction in ((empty, drawn), (drawn, empty)):
        found = compute_metrics(truth, prediction, spacing)
        assert found.dice == 0.0
        assert np.isnan([found.hd95, found.average_hausdorff, found.assd]).all()
        assert found.to_json()["hd95"] is None


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        dice(np.zeros((3, 3, 3), bool), np.zeros((3, 3, 4), bool))
