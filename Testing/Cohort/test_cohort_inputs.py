"""INPUTS of a cohort: files, folders, globs, lists, DICOM folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cohorts import ball, write_cases, write_image
from dicom_folders import write_series
from PIL import Image

from OFLSAM2Core.cohort.inputs import find_cases
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.reading import read_volume


def names(*inputs: object, **more: object) -> list[str]:
    return [case.name for case in find_cases([str(text) for text in inputs], **more).cases]


def test_a_folder_is_searched_with_all_below_it_and_names_come_from_files(tmp_path: Path) -> None:
    write_cases(tmp_path, "b", "a", "deeper/c", ".hidden/d")
    assert names(tmp_path) == ["a", "b", "c"]


def test_a_case_given_twice_is_one_case(tmp_path: Path) -> None:
    write_cases(tmp_path, "a", "b")
    assert names(tmp_path / "a.nii.gz", tmp_path, tmp_path / "*.nii.gz") == ["a", "b"]


def test_files_of_one_name_are_distinguished_by_their_folders(tmp_path: Path) -> None:
    write_cases(tmp_path, "p1/t1", "p2/t1", "p3/other")
    assert names(tmp_path / "*" / "*.nii.gz") == ["p1_t1", "p2_t1", "other"]
    assert names(tmp_path) == ["p1_t1", "p2_t1", "other"]


def test_names_that_a_file_cannot_have_become_ones_that_it_can_and_stay_different(
    tmp_path: Path,
) -> None:
    listed = [{"case": "a/b", "image": "x.nii.gz"}, {"case": "a:b", "image": "y.nii.gz"}]
    write_cases(tmp_path, "x", "y")
    (tmp_path / "list.json").write_text(json.dumps(listed))
    found = names(tmp_path / "list.json")
    assert len(set(found)) == 2 and not any(letter in name for name in found for letter in "/:\\")


def test_segmentations_beside_images_and_the_cohort_s_own_folder_are_left_out(
    tmp_path: Path,
) -> None:
    write_cases(tmp_path, "p1_image", "p1_label", "p2_image", "p2_label", "out/p1_confidence")
    (tmp_path / "p1.seg.nrrd").write_bytes(b"NRRD0004\n")
    write_cases(tmp_path / "earlier", "old")
    (tmp_path / "earlier" / "manifest.jsonl").write_text("")
    found = find_cases([str(tmp_path)], skip=[tmp_path / "out"])
    assert [case.name for case in found.cases] == ["p1", "p2"]
    assert {Path(path).name for path, _ in found.left_out} == {
        *("p1_label.nii.gz", "p2_label.nii.gz", "p1.seg.nrrd", "out", "earlier")
    }


def test_nnu_net_s_images_are_cases_without_their_channel(tmp_path: Path) -> None:
    write_cases(tmp_path / "imagesTs", "heart_001_0000", "heart_002_0000")
    assert names(tmp_path / "imagesTs") == ["heart_001", "heart_002"]


@pytest.mark.parametrize("given", ["", "*.nii.gz"])
def test_nnu_net_s_channels_of_a_case_are_co_registered_volumes_of_one(
    tmp_path: Path, given: str
) -> None:
    write_cases(tmp_path, "brain_1_0000", "brain_1_0001", "brain_2_0000", "brain_2_0001")
    first, second = find_cases([str(tmp_path / given)]).cases
    assert (first.name, second.name) == ("brain_1", "brain_2")
    assert [Path(source).name for source in second.sources] == [
        *("brain_2_0000.nii.gz", "brain_2_0001.nii.gz")
    ]
    assert names(tmp_path / "*_0001.*") == ["brain_1", "brain_2"]


def test_a_case_with_too_many_channels_or_without_its_first_is_refused(tmp_path: Path) -> None:
    write_cases(tmp_path / "four", *(f"b{case}_000{n}" for case in (1, 2) for n in range(4)))
    with pytest.raises(InputError, match="'b1' of .* has 4 channels, and 3 at most") as refused:
        names(tmp_path / "four")
    assert "_0000.*" in refused.value.hint
    write_cases(tmp_path / "gap", "a_0000", "a_0001", "b_0001")
    with pytest.raises(InputError, match="'b' of .* has channels, but no 0000"):
        names(tmp_path / "gap")


def test_patients_that_are_numbered_with_four_digits_are_no_channels(tmp_path: Path) -> None:
    write_cases(tmp_path / "from1", *(f"patient_000{n}" for n in range(1, 4)))
    assert names(tmp_path / "from1") == ["patient_0001", "patient_0002", "patient_0003"]
    write_cases(tmp_path / "from0", *(f"patient_000{n}" for n in range(5)))
    assert len(names(tmp_path / "from0")) == 5


def test_co_registered_volumes_of_a_case_are_given_with_a_plus_sign(tmp_path: Path) -> None:
    write_cases(tmp_path, "t1", "t2", "a+b")
    both = f"{tmp_path / 't1.nii.gz'}+{tmp_path / 't2.nii.gz'}"
    (case,) = find_cases([both]).cases
    assert case.name == "t1"
    assert case.sources == (str(tmp_path / "t1.nii.gz"), str(tmp_path / "t2.nii.gz"))
    assert names(tmp_path / "a+b.nii.gz") == ["a_b"]
    assert len(names(both, tmp_path / "t1.nii.gz")) == 2  # Another case than the volume alone.


def test_two_dicom_series_are_one_case(tmp_path: Path) -> None:
    write_series(tmp_path / "study", "1.2.826.101", 2)
    write_series(tmp_path / "study", "1.2.826.102", 3)
    sources = [f"{tmp_path / 'study'}#1.2.826.10{n}" for n in (1, 2)]
    (case,) = find_cases(["+".join(sources)]).cases
    assert list(case.sources) == sources
    assert read_volume(case.source, further=case.further).volume_count == 2


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("list.csv", "case,image\np,deep/t1.nii.gz+deep/t2.nii.gz\n"),
        ("list.json", '[{"name": "p", "image": "deep/t1.nii.gz+deep/t2.nii.gz"}]'),
        ("list.json", '{"test": [{"case": "p", "image": ["deep/t1.nii.gz", "deep/t2.nii.gz"]}]}'),
    ],
)  # fmt: skip
def test_a_list_names_co_registered_volumes_of_a_case(tmp_path: Path, file: str, text: str) -> None:
    write_cases(tmp_path, "deep/t1", "deep/t2")
    (tmp_path / file).write_text(text)
    (case,) = find_cases([str(tmp_path / file)]).cases
    assert case.name == "p"
    assert [Path(source).name for source in case.sources] == ["t1.nii.gz", "t2.nii.gz"]
    assert all(Path(source).is_file() for source in case.sources)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("list.csv", "case,image\nfirst,a.nii.gz\nsecond,deep/b.nii.gz\n"),
        ("list.csv", "\ufeffid;Image\nfirst;a.nii.gz\n\nsecond;deep/b.nii.gz\n"),
        ("list.tsv", "image\tcase\na.nii.gz\tfirst\ndeep/b.nii.gz\tsecond\n"),
        ("list.json", '[{"case": "first", "image": "a.nii.gz"}, '
                      '{"name": "second", "image": ["deep/b.nii.gz"]}]'),
    ],
)  # fmt: skip
def test_a_list_names_cases_and_paths_beside_itself(tmp_path: Path, file: str, text: str) -> None:
    write_cases(tmp_path, "a", "deep/b")
    (tmp_path / file).write_text(text)
    found = find_cases([str(tmp_path / file)]).cases
    assert [case.name for case in found] == ["first", "second"]
    assert [Path(case.source) for case in found] == [
        tmp_path / "a.nii.gz",
        tmp_path / "deep" / "b.nii.gz",
    ]


def test_a_monai_datalist_gives_its_test_cases_and_others_by_their_section(
    tmp_path: Path,
) -> None:
    datalist = {
        "training": [{"image": "t1.nii.gz", "label": "l1.nii.gz", "fold": 0}],
        "testing": [{"image": "a.nii.gz"}, "./b.nii.gz"],
    }
    (tmp_path / "data.json").write_text(json.dumps(datalist))
    assert names(tmp_path / "data.json") == ["a", "b"]
    assert names(f"{tmp_path / 'data.json'}#training") == ["t1"]
    with pytest.raises(InputError, match="no section 'fold'"):
        names(f"{tmp_path / 'data.json'}#fold")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("l.csv", "name,path_of_it\na,b\n", "no column 'image'"),
        ("l.csv", "image,case\n,first\n", "line 2"),
        ("l.csv", "", "no cases"),
        ("l.json", "{", "not JSON"),
        ("l.json", '{"training": ["a.nii.gz"]}', "testing"),
        ("l.json", '[{"image": ["a.nii", "b.nii", "c.nii", "d.nii"]}]', "4 images (channels)"),
        ("l.json", '[{"image": ["a.nii", 3]}]', "no path"),
        ("l.csv", "image\na.nii+b.nii+c.nii+d.nii\n", "not two or three"),
        ("l.json", "[3]", "no path"),
    ],
)
def test_a_list_of_another_form_is_refused(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError) as refused:
        names(tmp_path / file)
    assert message in str(refused.value) and file in str(refused.value)


def test_a_file_of_a_list_that_is_missing_is_a_case_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("image\nnot_there.nii.gz\n")
    assert names(tmp_path / "l.csv") == ["not_there"]


@pytest.mark.parametrize("text", ["nowhere", "nowhere/*.nii.gz"])
def test_what_is_not_there_is_refused_before_anything_starts(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="nowhere"):
        names(tmp_path / text)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no volume"):
        names(tmp_path)


def test_every_dicom_series_that_is_a_volume_is_a_case(tmp_path: Path) -> None:
    study = tmp_path / "study"
    write_series(study, "1.2.826.101", 2)
    write_series(study, "1.2.826.102", 3)
    write_series(study, "1.2.826.103", 1, slices=3, image_type="LOCALIZER")
    write_series(study, "1.2.826.104", 4, slices=1)
    write_series(study, "1.2.826.105", 5, slices=1, modality="SEG")
    write_series(tmp_path / "other", "1.2.826.106", None)
    found = find_cases([str(tmp_path)])
    assert sorted(case.name for case in found.cases) == ["other", "study_s2", "study_s3"]
    assert sorted(why for _, why in found.left_out) == [
        *("a localizer", "a series of kind SEG, no images", "a single picture, no volume")
    ]
    for case in found.cases:
        assert read_volume(case.source).array.shape == (8, 16, 16)


def test_series_without_a_number_of_their_own_are_distinguished(tmp_path: Path) -> None:
    write_series(tmp_path / "study", "1.2.826.101", None)
    write_series(tmp_path / "study", "1.2.826.102", None)
    assert len(set(names(tmp_path))) == 2


def test_a_series_in_two_folders_is_one_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "p" / "first", "1.2.826.101", slices=5)
    write_series(tmp_path / "p" / "second", "1.2.826.101", slices=3, first=5)
    (case,) = find_cases([str(tmp_path)]).cases
    assert read_volume(case.source).array.shape[0] == 8


def test_one_slice_of_a_series_names_it(tmp_path: Path) -> None:
    write_series(tmp_path / "p", "1.2.826.101")
    assert names(tmp_path / "p" / "*.dcm") == ["p"]


def test_a_folder_of_frames_is_a_case(tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / "video"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{number}.png")
    assert names(tmp_path) == ["video"]


def test_a_limit_takes_the_first_cases(tmp_path: Path) -> None:
    write_cases(tmp_path, "a", "b", "c")
    assert names(tmp_path, limit=2) == ["a", "b"]


def test_a_header_and_its_voxels_in_two_files_are_one_case(tmp_path: Path) -> None:
    write_image(tmp_path / "pair.mhd", ball())
    assert names(tmp_path) == ["pair"]
