"""Folders of labelled cases as the Decathlon, nnU-Net and BIDS lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.datasets import Dataset, for_method
from OFLSAM2Core.methods import get_method

RNG = np.random.default_rng(0)
LABELS = np.zeros((6, 7, 5), np.uint8)
LABELS[1:4, 2:5, 1:4] = 1
LABELS[4, 2:5, 1:4] = 2


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1, 2, 1])), path)
    return path


def image(path: Path, *, channels: int = 1) -> np.ndarray:
    """Written as one volume or a 4D image; (6, 7, 5, channels)."""
    array = RNG.integers(0, 900, (6, 7, 5, channels)).astype(np.int16)
    write(path, array if channels > 1 else array[..., 0])
    return array


def decathlon(base: Path, channels: int = 1) -> dict[str, np.ndarray]:
    written = {}
    for n in range(4):
        written[f"organ_{n}"] = image(base / f"imagesTr/organ_{n}.nii.gz", channels=channels)
        write(base / f"labelsTr/organ_{n}.nii.gz", LABELS)
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
              for name in written]  # fmt: skip
    about = {
        "name": "Organ",
        "modality": {str(n): f"MRI {n}" for n in range(channels)},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": listed,
        "test": [],
    }
    # Written by another program, with a byte order mark.
    (base / "dataset.json").write_text(json.dumps(about), encoding="utf-8-sig")
    return written


def read(dataset: Dataset, case: str, expected: np.ndarray) -> None:
    """expected: (6, 7, 5, channels), of which those that are used are read, three at most."""
    dataset.look_at_case(case)
    found = dataset.read_case(case)
    for volume, channel in zip(
        (found.volume, *found.volume.further), range(min(3, expected.shape[3])), strict=True
    ):
        np.testing.assert_array_equal(volume.array.T, expected[..., channel])
    np.testing.assert_array_equal(found.labels.T, LABELS)
    assert found.name == case


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_decathlons_4d_images_are_co_registered_volumes_three_at_most_with_a_word(
    tmp_path, channels, caplog
):
    written = decathlon(tmp_path, channels)
    dataset = Dataset.open(tmp_path)
    assert [one.name for one in dataset.table.structures] == ["organ", "lesion"]
    read(dataset, "organ_2", written["organ_2"])
    support, test = dataset.choose(2, None, None)
    assert (support, test) == (["organ_0", "organ_1"], ["organ_2", "organ_3"])
    assert dataset.choose(None, ["organ_3"], 1) == (["organ_3"], ["organ_0"])
    told = "have 4 channels; the first 3 are used (MRI 0, MRI 1, MRI 2)"
    assert (told in caplog.text) == (channels > 3)


def test_an_image_without_the_channels_that_its_folder_tells_of_is_refused(tmp_path):
    decathlon(tmp_path, 2)
    image(tmp_path / "imagesTr/organ_1.nii.gz")
    with pytest.raises(InputError, match=r"organ_1.nii.gz' has one volume, none of the number 1"):
        Dataset.open(tmp_path).read_case("organ_1")


def nnunet(base: Path, channels: int = 1, ending: str = ".nii.gz") -> dict[str, np.ndarray]:
    written = {}
    for n in range(4):
        written[f"case_{n}"] = np.concatenate(
            [
                image(base / f"imagesTr/case_{n}_{channel:04d}{ending}")
                for channel in range(channels)
            ],
            axis=-1,
        )
        write(base / f"labelsTr/case_{n}{ending}", LABELS)
    (base / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {str(n): "MRI" for n in range(channels)},
                "labels": {"background": 0, "organ": 1, "lesion": 2},
                "numTraining": 4,
                "file_ending": ending,
            }
        )
    )
    return written


@pytest.mark.parametrize(
    ("channels", "ending"), [(1, ".nii.gz"), (2, ".nii.gz"), (1, ".nii"), (4, ".nii.gz")]
)
def test_nnunets_channels_are_co_registered_volumes_three_at_most_with_a_word(
    tmp_path, channels, ending, caplog
):
    written = nnunet(tmp_path, channels, ending)
    dataset = Dataset.open(tmp_path)
    assert [one.name for one in dataset.table.structures] == ["organ", "lesion"]
    read(dataset, "case_1", written["case_1"])
    assert ("have 4 channels; the first 3 are used" in caplog.text) == (channels > 3)


def test_the_first_volumes_alone_are_read_where_so_many_are_asked_for(tmp_path):
    written = nnunet(tmp_path, 3)
    dataset = Dataset.open(tmp_path)
    read(dataset.with_volumes(2), "case_0", written["case_0"][..., :2])
    read(dataset.with_volumes(1), "case_0", written["case_0"][..., :1])
    with pytest.raises(InputError, match="have 3 co-registered volumes that can be used, not 4"):
        dataset.with_volumes(4)


def test_a_method_that_sees_one_volume_is_given_the_first_with_a_word(tmp_path, caplog):
    nnunet(tmp_path, 2)
    dataset = Dataset.open(tmp_path)
    assert for_method(dataset, get_method("ofl-sam2-atlas")).volumes == 2
    assert not caplog.records
    assert for_method(dataset, get_method("atlas")).volumes == 1
    assert "'atlas' sees one volume of a case: the first of 2 is used" in caplog.text
    assert for_method(dataset, get_method("atlas"), 2).volumes == 2  # Its session refuses them.


def test_a_channel_that_is_missing_among_others_is_told_by_name(tmp_path):
    nnunet(tmp_path, 3)
    (tmp_path / "imagesTr/case_2_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="'case_2_0002.nii.gz', but no 'case_2_0001'"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("form", ["dataset", "training"])
def test_a_list_in_dataset_json_names_the_co_registered_volumes_of_each_case(tmp_path, form):
    written = nnunet(tmp_path / "raw", 2)
    listed = {
        case: {
            "images": [f"raw/imagesTr/{case}_000{n}.nii.gz" for n in range(2)],
            "label": f"raw/labelsTr/{case}.nii.gz",
        }
        for case in written
    }
    flat = [{"image": one["images"], "label": one["label"]} for one in listed.values()]
    about = {"labels": {"1": "organ", "2": "lesion"}, "channel_names": {"0": "T2", "1": "ADC"}}
    content = {**about, form: listed if form == "dataset" else flat}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    dataset = Dataset.open(tmp_path)
    assert list(dataset.files) == list(written) and dataset.volumes == 2
    read(dataset, "case_3", written["case_3"])
    (tmp_path / "raw/imagesTr/case_0_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="'case_0', but there is no 'case_0_0001.nii.gz'"):
        Dataset.open(tmp_path)


def test_images_without_labels_are_reported_and_labels_without_image_refused(tmp_path, caplog):
    nnunet(tmp_path)
    (tmp_path / "labelsTr/case_3.nii.gz").unlink()
    assert list(Dataset.open(tmp_path).files) == ["case_0", "case_1", "case_2"]
    assert "1 image in" in caplog.text and "has no labels; left out" in caplog.text
    (tmp_path / "imagesTr/case_2_0000.nii.gz").unlink()
    with pytest.raises(InputError, match="labels of 'case_2', but there is no image"):
        Dataset.open(tmp_path)


def bids(base: Path, label: str) -> dict[str, np.ndarray]:
    """label: where the labels of subject and session lie."""
    first = {}
    for subject in ("01", "02", "03", "04"):
        stem = f"sub-{subject}_ses-a"
        folder = base / f"sub-{subject}/ses-a/anat"
        first[f"{stem}_T1w"] = image(folder / f"{stem}_T1w.nii.gz")
        write(base / label.format(subject), LABELS)
    (base / "dataset_description.json").write_text('{"Name": "Many", "BIDSVersion": "1.9.0"}')
    return first


@pytest.mark.parametrize(
    "label",
    [
        "derivatives/manual/sub-{0}/ses-a/anat/sub-{0}_ses-a_desc-manual_dseg.nii.gz",
        "derivatives/labels/sub-{0}/ses-a/anat/sub-{0}_ses-a_T1w_seg-manual.nii.gz",
        "sub-{0}/ses-a/anat/sub-{0}_ses-a_space-orig_label-organ_mask.nii.gz",
    ],
)
def test_a_bids_folder_pairs_labels_and_images_by_their_names(tmp_path, label):
    first = bids(tmp_path, label)
    dataset = Dataset.open(tmp_path)
    assert dataset.name == "Many"
    assert list(dataset.files) == list(first)
    read(dataset, "sub-03_ses-a_T1w", first["sub-03_ses-a_T1w"])
    assert [one.label for one in dataset.table.structures] == [1, 2]


def test_a_table_of_bids_names_the_structures(tmp_path):
    bids(tmp_path, "derivatives/m/sub-{0}/ses-a/anat/sub-{0}_ses-a_dseg.nii.gz")
    (tmp_path / "derivatives/m/dseg.tsv").write_text("index\tname\n1\torgan\n2\tlesion\n")
    structures = Dataset.open(tmp_path).table.structures
    assert [one.name for one in structures] == ["organ", "lesion"]


def test_labels_that_may_belong_to_two_images_are_refused(tmp_path):
    bids(tmp_path, "derivatives/m/sub-{0}/ses-a/anat/sub-{0}_ses-a_dseg.nii.gz")
    image(tmp_path / "sub-02/ses-a/anat/sub-02_ses-a_T2w.nii.gz")
    with pytest.raises(InputError, match="'sub-02_ses-a_dseg.nii.gz' belong to no image"):
        Dataset.open(tmp_path)


def test_a_folder_of_none_of_these_layouts_says_so(tmp_path):
    with pytest.raises(InputError, match="has no dataset.json, and is not BIDS"):
        Dataset.open(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        Dataset.open(tmp_path / "gone")
    (tmp_path / "dataset.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="does not list 'support' and 'test' cases"):
        Dataset.open(tmp_path)
