"""Folders of labelled cases as the Decathlon, nnU-Net and BIDS lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.datasets import Dataset

RNG = np.random.default_rng(0)
LABELS = np.zeros((6, 7, 5), np.uint8)
LABELS[1:4, 2:5, 1:4] = 1
LABELS[4, 2:5, 1:4] = 2


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1, 2, 1])), path)
    return path


def image(path: Path, *, channels: int = 1) -> np.ndarray:
    array = RNG.integers(0, 900, (6, 7, 5, channels)).astype(np.int16)
    write(path, array if channels > 1 else array[..., 0])
    return array[..., 0]


def decathlon(base: Path, channels: int = 1) -> dict[str, np.ndarray]:
    first = {}
    for n in range(4):
        first[f"organ_{n}"] = image(base / f"imagesTr/organ_{n}.nii.gz", channels=channels)
        write(base / f"labelsTr/organ_{n}.nii.gz", LABELS)
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
              for name in first]  # fmt: skip
    about = {
        "name": "Organ",
        "modality": {str(n): "MRI" for n in range(channels)},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": listed,
        "test": [],
    }
    # Written by another program, with a byte order mark.
    (base / "dataset.json").write_text(json.dumps(about), encoding="utf-8-sig")
    return first


def read(dataset: Dataset, case: str, expected: np.ndarray) -> None:
    found = dataset.read_case(case)
    np.testing.assert_array_equal(found.volume.array.T, expected)
    np.testing.assert_array_equal(found.labels.T, LABELS)
    assert found.name == case


@pytest.mark.parametrize("channels", [1, 2])
def test_the_decathlons_folder_is_read_the_first_channel_of_several_with_a_word(
    tmp_path, channels, caplog
):
    first = decathlon(tmp_path, channels)
    dataset = Dataset.open(tmp_path)
    assert [one.name for one in dataset.table.structures] == ["organ", "lesion"]
    read(dataset, "organ_2", first["organ_2"])
    support, test = dataset.choose(2, None, None)
    assert (support, test) == (["organ_0", "organ_1"], ["organ_2", "organ_3"])
    assert dataset.choose(None, ["organ_3"], 1) == (["organ_3"], ["organ_0"])
    assert ("several channels; the first one is read" in caplog.text) == (channels > 1)


def nnunet(base: Path, channels: int = 1, ending: str = ".nii.gz") -> dict[str, np.ndarray]:
    first = {}
    for n in range(4):
        for channel in range(channels):
            array = image(base / f"imagesTr/case_{n}_{channel:04d}{ending}")
            first.setdefault(f"case_{n}", array)
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
    return first


@pytest.mark.parametrize(("channels", "ending"), [(1, ".nii.gz"), (2, ".nii.gz"), (1, ".nii")])
def test_nnunets_folder_is_read_the_first_channel_of_several_with_a_word(
    tmp_path, channels, ending, caplog
):
    first = nnunet(tmp_path, channels, ending)
    dataset = Dataset.open(tmp_path)
    assert [one.name for one in dataset.table.structures] == ["organ", "lesion"]
    read(dataset, "case_1", first["case_1"])
    assert ("several channels; the first one is read" in caplog.text) == (channels > 1)


def test_images_without_labels_are_reported_and_labels_without_image_refused(tmp_path, caplog):
    nnunet(tmp_path)
    (tmp_path / "labelsTr/case_3.nii.gz").unlink()
    assert list(Dataset.open(tmp_path).files) == ["case_0", "case_1", "case_2"]
    assert "1 images" in caplog.text and "have no labels; left out" in caplog.text
    (tmp_path / "imagesTr/case_2_0000.nii.gz").unlink()
    with pytest.raises(InputError, match="labels of 'case_2', of which there is no image"):
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
