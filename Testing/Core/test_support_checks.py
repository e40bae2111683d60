"""Support cases and volumes that do not go together are told of, in words with both ranges."""

from __future__ import annotations

import numpy as np
import pytest

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.data.structure_status import describe_status, structure_status, support_sizes
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.support_checks import check_support
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.preprocessing.intensity_comparison import (
    IntensityRange,
    compare_with_support,
    support_ranges,
)
from OFLSAM2Core.session import FewShotSession

SHAPE = (10, 40, 44)
ORGAN = (Structure("organ", 1),)


def body(ct: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A body with an organ in air: Hounsfield units, or grey values of MR."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:10, :40, :44]
    inside = ((y - 20) / 17) ** 2 + ((x - 22) / 19) ** 2 < 1
    organ = ((y - 24) / 6) ** 2 + ((x - 15) / 6) ** 2 + ((z - 4.5 - 0.3 * seed) / 3) ** 2 < 1
    air, muscle, bright, noise = (-1000, 40, 150, 12) if ct else (4, 300, 620, 20)
    values = np.where(inside, np.where(organ, bright, muscle), air).astype(float)
    return np.rint(values + rng.normal(0, noise, SHAPE)).astype(np.int16), organ & inside


def case(ct: bool, seed: int, name: str = "") -> SupportCase:
    values, organ = body(ct, seed)
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    return SupportCase(
        Volume(values, affine, name or f"case {seed}"), organ.astype(np.uint8), ORGAN
    )


def test_ct_and_mr_in_one_support_are_reported_with_both_ranges(caplog):
    support_ranges([case(True, 1), case(False, 2)])
    assert "unlike grey values: 'case 1' -10" in caplog.text
    assert "(CT in Hounsfield units), 'case 2' " in caplog.text
    assert "(no CT in Hounsfield units)" in caplog.text


@pytest.mark.parametrize("ct", [True, False])
def test_volumes_of_one_modality_bring_no_warning(caplog, ct):
    ranges = support_ranges([case(ct, 1), case(ct, 2)])
    compare_with_support(case(ct, 3).volume, ranges)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: np.clip((x + 160) / 400, 0, 1).astype(np.float32), "0 to 0."),
        (lambda x: x + 1024, "Hounsfield units + 10"),
        (lambda x: np.clip((x + 160) / 400 * 255, 0, 255).astype(np.uint8), "0 to"),
        (lambda x: x * 16, "(no CT in Hounsfield units)"),
    ],
    ids=["from 0 to 1", "intercept left out", "8 bits", "another slope"],
)
def test_a_ct_on_another_scale_than_the_supports_is_reported_with_both_ranges(caplog, change, told):
    ranges = support_ranges([case(True, 1), case(True, 2)])
    values = case(True, 3).volume
    compare_with_support(Volume(change(values.array), values.affine, "new"), ranges)
    assert "The grey values of 'new' are not those of the support volumes" in caplog.text
    assert told in caplog.text and "support -10" in caplog.text


def test_a_ct_that_was_cropped_to_tissue_brings_no_warning(caplog):
    ranges = support_ranges([case(True, 1), case(True, 2)])
    values = case(True, 3).volume.array[:, 10:30, 10:30].copy()
    values[:, :4] = -90  # Fat: there is always some.
    compare_with_support(Volume(values), ranges)
    assert caplog.text == ""


def test_an_mr_for_a_task_of_ct_and_a_ct_for_one_of_mr_are_reported(caplog):
    compare_with_support(case(True, 3).volume, support_ranges([case(False, 1)]))
    assert caplog.text.count("are not those of the support volumes") == 1
    compare_with_support(Volume(case(False, 3).volume.array * 4), support_ranges([case(True, 1)]))
    assert caplog.text.count("are not those of the support volumes") == 2


def test_the_same_volume_twice_is_reported(caplog):
    one = case(False, 1, "one")
    again = SupportCase(
        Volume(one.volume.array.copy(), one.volume.affine, "two"), one.labels, ORGAN
    )
    other = SupportCase(again.volume, np.roll(one.labels, 1, axis=0), ORGAN)
    check_support([one, case(False, 2), again])
    assert "Support cases 1 ('one') and 3 ('two') are the same volume with the same" in caplog.text
    check_support([one, other])
    assert "are the same volume with different labels" in caplog.text


def test_labels_that_are_the_image_are_refused():
    _, organ = body(False, 1)
    labels = organ.astype(np.uint8)
    with pytest.raises(InputError, match="segmentation of 'x' is the image itself"):
        check_support([SupportCase(Volume(labels, name="x"), labels, ORGAN)])


def test_one_labelled_slice_of_many_and_every_third_are_reported(caplog):
    one = case(False, 1)
    check_support([one])
    assert caplog.text == ""
    only = np.zeros_like(one.labels)
    only[4] = one.labels[4]
    check_support([SupportCase(one.volume, only, ORGAN)])
    assert "Only 1 of 10 axial slices of 'case 1' have labels" in caplog.text
    sparse = np.zeros_like(one.labels)
    sparse[::3] = 1
    check_support([SupportCase(one.volume, sparse, ORGAN)])
    assert "Only 4 of 10 neighbouring axial slices" in caplog.text


def test_a_segmentation_in_place_of_an_image_causes_a_warning(caplog):
    one = case(False, 1)
    ranges = support_ranges([one])
    assert "as a segmentation has" not in caplog.text
    given = Volume(one.labels.astype(np.int16), one.volume.affine, "labels")
    compare_with_support(given, ranges)
    assert "'labels' has no more than 2 different values, as a segmentation has" in caplog.text


def test_a_volume_of_one_grey_value_and_labels_without_background_are_reported(caplog):
    one = case(False, 1)
    even = Volume(np.full(SHAPE, 7, np.int16), one.volume.affine, "even")
    support_ranges([SupportCase(even, one.labels, ORGAN)])
    assert "Every voxel of 'even' has the value 7" in caplog.text
    caplog.clear()
    compare_with_support(even, support_ranges([one]))
    assert "Every voxel of 'even' has the value 7" in caplog.text
    caplog.clear()
    check_support([SupportCase(one.volume, np.ones_like(one.labels), ORGAN)])
    assert "No voxel of 'case 1' is background" in caplog.text


def test_a_structure_is_empty_doubtful_or_found():
    sizes = support_sizes([case(False, 1), case(False, 2)])
    least, most = sizes["organ"]
    voxels = [np.count_nonzero(case(False, seed).labels) for seed in (1, 2)]
    assert (least, most) == pytest.approx((min(voxels) * 0.02, max(voxels) * 0.02))
    assert structure_status(0, 0.0, sizes["organ"]) == "empty"
    assert structure_status(3, 0.06, sizes["organ"]) == "doubtful"
    assert structure_status(voxels[0], least, sizes["organ"]) == "found"
    greatest = sizes["organ"][1]
    assert structure_status(9, 9 * greatest, sizes["organ"]) == "found"
    assert structure_status(11, 11 * greatest, sizes["organ"]) == "doubtful"
    assert structure_status(1, 0.02, None) == "found"
    assert describe_status("empty", None) == "empty: nothing was found"
    assert "almost nothing was found" in describe_status("doubtful", sizes["organ"], 0.01)
    assert "doubtful: 99 ml was found" in describe_status("doubtful", sizes["organ"], 99.0)


def test_a_task_keeps_ranges_and_sizes_and_compares_the_volume_with_them(tmp_path, caplog):
    """Also a volume of one slice, from a support of two slices."""
    session = FewShotSession(
        Sam2Backbone.random(seed=3, image_size=64),
        preset="fast",
        options={"training_steps": 8, "encoded_slices": 16, "atlas_prior": False},
    )
    thin = [SupportCase(
        Volume(one.volume.array[4:6], one.volume.affine, one.name), one.labels[4:6], ORGAN
    ) for one in (case(True, 1), case(True, 2))]  # fmt: skip
    task = session.learn(thin)
    assert [one.scale for one in task.intensities] == ["Hounsfield", "Hounsfield"]
    again = LearnedTask.load(task.save(tmp_path / "x.oflsam2"))
    assert again.intensities == task.intensities and again.sizes == task.sizes
    target = case(True, 3).volume
    shifted = Volume(target.array[4:5] + 1024, target.affine, "shifted")
    results = list(session.segment(shifted, again))
    assert {result.index for result in results} == {0}
    assert "The grey values of 'shifted' are not those" in caplog.text
    with pytest.raises(ValueError, match="no range"):
        IntensityRange.from_json({"low": 0, "median": float("nan"), "high": 1, "ct_offset": None})
