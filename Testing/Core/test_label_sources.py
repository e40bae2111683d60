"""Labels come as DICOM SEG and RTSTRUCT, as layers, folders of masks and odd values, each structure
by its own name and every voxel at its place."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_by_hand import oblique, write_contours, write_frames, write_seg, write_series
from PIL import Image

from OFLSAM2Core.data.image_identity import image_identity
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.dicom_seg_writing import check_dicom_seg, write_dicom_seg
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.io.made_of import images_made_of
from OFLSAM2Core.io.reading import (
    read_segmentation,
    read_support_case,
    read_volume,
    write_labelmap,
)

AFFINE = oblique()
SHAPE = (8, 20, 24)


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 3:9, 4:9] = 1
    labels[5:7, 8:16, 10:20] = 2  # A slice of nothing lies between the two.
    return labels


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    write_series(tmp_path / "ct", array, AFFINE)
    return tmp_path / "ct"


def named(case, name: str) -> np.ndarray:  # type: ignore[no-untyped-def]
    (label,) = [one.label for one in case.structures if one.name == name]
    return case.labels == label


@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("place", ["folder", "file", "beside the image", "zip"])
def test_a_dicom_segmentation_is_read_frame_by_frame(tmp_path, ct, labels, fractional, place):
    folder = ct if place == "beside the image" else tmp_path / "seg"
    path = write_seg(folder / "seg.dcm", labels, AFFINE, ["liver", "tumour"], fractional)
    if place == "zip":
        shutil.make_archive(str(tmp_path / "seg"), "zip", folder)
        path = tmp_path / "seg.zip"
    case = read_support_case(ct, path if place in ("file", "zip") else folder)
    np.testing.assert_array_equal(case.labels, labels)
    assert [one.name for one in case.structures] == ["liver", "tumour"]
    assert case.structures[0].code == "SCT:10200004"


@pytest.mark.parametrize("kind", ["seg", "contours"])
def test_a_segmentation_in_another_frame_of_reference_causes_a_warning(
    tmp_path, ct, labels, kind, caplog
):
    if kind == "seg":
        path = write_seg(tmp_path / "drawn.dcm", labels, AFFINE, ["liver", "tumour"])
    else:
        drawn = [circle(k, (10, 12), 5) for k in range(1, 4)]
        path = write_contours(tmp_path / "drawn.dcm", {"liver": drawn})
    read_support_case(ct, path)
    assert "frame of reference" not in caplog.text
    data = pydicom.dcmread(path)
    if kind == "seg":
        data.FrameOfReferenceUID = "1.2.3"
    else:
        del data.FrameOfReferenceUID
        data.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    data.save_as(path)
    read_support_case(ct, path)
    assert "lies in another frame of reference" in caplog.text


def test_segments_that_overlap_are_reported_and_the_later_is_taken(tmp_path, caplog):
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 3:9, 4:9], labels[3, 6:12, 4:9] = 1, 2
    path = write_seg(tmp_path / "a.dcm", labels, AFFINE, ["liver", "tumour"])
    data = pydicom.dcmread(path)
    one, other = data.PerFrameFunctionalGroupsSequence
    other.PlanePositionSequence = one.PlanePositionSequence
    data.save_as(path)
    read, _, structures = read_segmentation(path)
    assert "overlap in 15 voxels; there the later segment is taken" in caplog.text
    np.testing.assert_array_equal(read[0] == structures[1].label, labels[3] == 2)
    np.testing.assert_array_equal(
        read[0] == structures[0].label, (labels[2] == 1) & (labels[3] != 2)
    )


def test_a_folder_with_two_segmentations_asks_which(tmp_path, ct, labels):
    write_seg(tmp_path / "segs" / "a.dcm", labels, AFFINE, ["liver"])
    path = write_seg(tmp_path / "segs" / "b.dcm", labels, AFFINE, ["liver"])
    data = pydicom.dcmread(path)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data.save_as(path)
    with pytest.raises(InputError, match="has 2 DICOM segmentations .*'a.dcm', 'b.dcm'"):
        read_segmentation(tmp_path / "segs")
    with pytest.raises(InputError, match="has 0 DICOM segmentations .*only images"):
        read_segmentation(ct)


@pytest.mark.parametrize("kind", ["series", "frames", "zip"])
def test_a_written_dicom_segmentation_is_read_by_highdicom_and_comes_back(
    tmp_path, ct, labels, kind
):
    source = ct
    if kind == "frames":
        array = read_volume(ct).array
        source = write_frames(tmp_path / "one.dcm", array, AFFINE, [3, 0, 6, 1, 7, 5, 2, 4])
    elif kind == "zip":
        shutil.make_archive(str(tmp_path / "ct"), "zip", ct)
        source = tmp_path / "ct.zip"
    volume = read_volume(source)
    atrium = ("list~SCT^123037004^Anatomical Structure~SCT^59652004^Atrium~SCT^7771000^Left"
              "~list~^^~^^")  # fmt: skip
    structures = (Structure("atrium", 4, (0.9, 0.2, 0.1), atrium), Structure("Größe", 9))
    write_dicom_seg(tmp_path / "out.dcm", np.choose(labels, [0, 4, 9]), volume, structures)

    seg = highdicom.seg.segread(tmp_path / "out.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == ["atrium", "Größe"]
    read = seg.get_volume(combine_segments=True)
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    for k, j, i in np.argwhere(read.array):  # highdicom: slice, row, column, LPS
        world = read.affine @ [k, j, i, 1]
        index = np.rint((np.linalg.inv(lps) @ world)[:3]).astype(int)
        assert labels[tuple(index[::-1])] == read.array[k, j, i]
    assert np.count_nonzero(read.array) == np.count_nonzero(labels)

    assert images_made_of(tmp_path / "out.dcm") == {image_identity(volume)}
    case = read_support_case(source, tmp_path / "out.dcm")
    np.testing.assert_array_equal(case.labels, labels)
    first, second = case.structures
    assert (first.name, second.name) == ("atrium", "Größe")
    assert first.code == "SCT:59652004|SCT:7771000"
    np.testing.assert_allclose(first.color, (0.9, 0.2, 0.1), atol=0.01)


def test_a_dicom_segmentation_of_another_image_than_dicom_is_refused_before_the_work(tmp_path):
    with pytest.raises(InputError, match="refers to the slices of a DICOM image"):
        check_dicom_seg(Volume(np.zeros(SHAPE)))


def circle(k: float, center: tuple[float, float], radius: float) -> np.ndarray:
    """A contour in slice k, as RAS millimetres."""
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    j, i = center[0] + radius * np.sin(angles), center[1] + radius * np.cos(angles)
    index = np.stack([i, j, np.full(90, k), np.ones(90)])
    return (AFFINE @ index)[:3].T


def disk(center: tuple[float, float], radius: float) -> np.ndarray:
    j, i = np.mgrid[: SHAPE[1], : SHAPE[2]]
    return (j - center[0]) ** 2 + (i - center[1]) ** 2 < radius**2


def test_contours_are_filled_with_holes_and_the_smaller_structure_wins(tmp_path, ct, caplog):
    body = [circle(k, (10, 12), 8.3) for k in range(8)]
    ring = [circle(k, (9.5, 11.5), radius) for k in (2, 3) for radius in (5.4, 2.2)]
    between = [circle(5.3, (6, 6), 2.6)]
    path = write_contours(tmp_path / "rt.dcm", {"body": body, "ring": ring, "node": between})
    case = read_support_case(ct, path)
    assert [one.name for one in case.structures] == ["body", "ring", "node"]
    assert case.structures[0].color == (1.0, 0.0, 0.2)
    expected = np.zeros(SHAPE, np.uint8)
    expected[:, disk((10, 12), 8.3)] = 1
    hollow = disk((9.5, 11.5), 5.4) & ~disk((9.5, 11.5), 2.2)
    expected[2:4, hollow] = 2
    expected[5, disk((6, 6), 2.6)] = 3  # The nearer slice.
    assert np.count_nonzero(case.labels != expected) <= 6  # A circle of 90 corners.
    assert "overlap in" in caplog.text and "the smaller one is taken" in caplog.text


def test_contours_need_their_image_and_must_lie_in_it(tmp_path, ct):
    path = write_contours(tmp_path / "rt.dcm", {"far": [circle(50, (10, 12), 5)]})
    with pytest.raises(InputError, match="need the image that they were drawn on"):
        read_segmentation(path)
    with pytest.raises(InputError, match="No contour of .* lies within the volume"):
        read_support_case(ct, path)
    slanted = circle(4, (10, 12), 5) + np.linspace(0, 9, 90)[:, None] * AFFINE[:3, 2] / 3
    path = write_contours(tmp_path / "rt.dcm", {"slanted": [slanted]})
    with pytest.raises(InputError, match="'slanted' .* do not lie in slices of the image"):
        read_support_case(ct, path)
    points = write_contours(tmp_path / "pt.dcm", {"mark": [circle(4, (1, 1), 1)]}, kind="POINT")
    with pytest.raises(InputError, match="has no closed contours"):
        read_support_case(ct, points)


def test_contours_that_reach_beyond_their_image_cause_a_warning(tmp_path, ct, caplog):
    within = [circle(k, (10, 12), 5) for k in range(8)]
    read_support_case(ct, write_contours(tmp_path / "rt.dcm", {"all": within}))
    assert "beyond the image" not in caplog.text
    above = [circle(k, (10, 12), 5) for k in range(2, 12)]
    read_support_case(ct, write_contours(tmp_path / "rt.dcm", {"head": above}))
    assert "3 of 10 contours of 'head' in" in caplog.text and "beyond the image" in caplog.text


def test_slices_without_contours_between_others_are_reported(tmp_path, ct, caplog):
    path = write_contours(
        tmp_path / "rt.dcm", {"liver": [circle(k, (10, 12), 5) for k in (0, 3, 6)]}
    )
    read_support_case(ct, path)
    assert "is not drawn on 4 slices between its first and last one" in caplog.text


@pytest.fixture
def image(tmp_path: Path) -> Path:
    volume = Volume(np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.uint8), AFFINE)
    write_labelmap(tmp_path / "image.nii.gz", volume.array, volume)
    return tmp_path / "image.nii.gz"


def volume_of(image: Path) -> Volume:
    return read_volume(image)


def test_a_folder_of_masks_has_one_structure_a_file(tmp_path, image, labels, caplog):
    volume, folder = volume_of(image), tmp_path / "masks"
    folder.mkdir()
    write_labelmap(folder / "spleen.nii.gz", (labels == 2).astype(np.uint8) * 255, volume)
    write_labelmap(folder / "liver.nii.gz", (labels > 0).astype(np.uint8), volume)
    write_labelmap(folder / "absent.nii.gz", np.zeros(SHAPE, np.uint8), volume)
    case = read_support_case(image, folder)
    assert [one.name for one in case.structures] == ["liver", "spleen"]
    np.testing.assert_array_equal(named(case, "spleen"), labels == 2)
    np.testing.assert_array_equal(named(case, "liver"), labels == 1)
    assert f"overlap in {np.count_nonzero(labels == 2)} voxels" in caplog.text
    table = LabelTable.from_json({"7": "Liver", "8": "spleen"})
    assert [s.label for s in read_support_case(image, folder, table=table).structures] == [7, 8]


def test_masks_with_several_values_and_a_folder_of_empty_ones_are_refused(tmp_path, image, labels):
    volume, folder = volume_of(image), tmp_path / "masks"
    folder.mkdir()
    write_labelmap(folder / "a.nii.gz", labels, volume)
    case = read_support_case(image, folder)  # One file is a labelmap.
    np.testing.assert_array_equal(case.labels, labels)
    write_labelmap(folder / "b.nii.gz", np.zeros(SHAPE, np.uint8), volume)
    with pytest.raises(InputError, match="a.nii.gz' has 2 values; in a folder of masks"):
        read_support_case(image, folder)
    (folder / "a.nii.gz").unlink()
    write_labelmap(folder / "c.nii.gz", np.zeros(SHAPE, np.uint8), volume)
    with pytest.raises(InputError, match="masks' is empty: every voxel is background"):
        read_support_case(image, folder)


def segments(*lines: str, voxels: np.ndarray, path: Path, kinds: str, directions: str) -> Path:
    sizes = " ".join(map(str, voxels.shape))
    head = ["NRRD0004", "type: unsigned char", f"dimension: {voxels.ndim}",
            "space: left-posterior-superior", f"sizes: {sizes}",
            f"space directions: {directions}", f"kinds: {kinds}", "encoding: raw",
            "space origin: (0,0,0)", *lines]  # fmt: skip
    path.write_bytes("\n".join(head).encode() + b"\n\n" + voxels.tobytes(order="F"))
    return path


SPACE = "(1,0,0) (0,1,0) (0,0,1)"


def test_two_segments_of_one_value_in_one_layer_are_refused(tmp_path):
    lines = [f"Segment{n}_{key}:={value}" for n in (0, 1)
             for key, value in (("ID", f"S{n}"), ("LabelValue", 1), ("Layer", 0))]  # fmt: skip
    path = segments(*lines, voxels=np.ones((4, 5, 6), np.uint8), path=tmp_path / "x.seg.nrrd",
                    kinds="domain domain domain", directions=SPACE)  # fmt: skip
    with pytest.raises(InputError, match="'S0' and 'S1' have the same value 1 in one layer"):
        read_segmentation(path)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (4, 2), (10, 9)])
def test_segments_are_known_by_their_number_not_by_their_order(tmp_path, numbers):
    first, second = numbers
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[0], voxels[3] = 1, 2
    path = segments(
        f"Segment{first}_ID:=a", f"Segment{first}_Name:=liver", f"Segment{first}_LabelValue:=1",
        f"Segment{second}_ID:=b", f"Segment{second}_Name:=tumour", f"Segment{second}_LabelValue:=2",
        f"Segment{second}_Layer:=0", f"Segment{first}_Layer:=0",
        voxels=voxels, path=tmp_path / "x.seg.nrrd", kinds="domain domain domain",
        directions=SPACE,
    )  # fmt: skip
    read, _, structures = read_segmentation(path)
    assert {one.name: one.label for one in structures} == {"liver": 1, "tumour": 2}
    np.testing.assert_array_equal(read.T, voxels)


@pytest.mark.parametrize("name", ["x.seg.nrrd", "x.nrrd"])
@pytest.mark.parametrize("last", [False, True])
def test_layers_are_read_wherever_their_axis_is_and_whatever_the_name(tmp_path, name, last):
    voxels = np.zeros((2, 4, 5, 6), np.uint8)
    voxels[0, 0], voxels[1, 3] = 1, 1
    lines = [f"Segment{n}_{field}" for n in (0, 1)
             for field in (f"Name:=part {n}", "LabelValue:=1", f"Layer:={n}")]  # fmt: skip
    kinds, directions = ["list", "domain domain domain"], ["none", SPACE]
    if last:
        kinds, directions = kinds[::-1], directions[::-1]
    path = segments(
        *lines,
        voxels=np.moveaxis(voxels, 0, -1) if last else voxels,
        path=tmp_path / name,
        kinds=" ".join(kinds),
        directions=" ".join(directions),
    )
    read, _, structures = read_segmentation(path)
    assert [(one.name, one.label) for one in structures] == [("part 0", 1), ("part 1", 2)]
    np.testing.assert_array_equal(read.T, voxels[0] + 2 * voxels[1])


@pytest.mark.parametrize(
    "line",
    ["Segment0_Color:=0.1 0.2", "Segment0_Color:=0.1 0.2 0.3 1", "Segment0_Color:=0,1 red 2",
     "Segment0_Tags:=Status:x|mine|", "Segment0_Extent:=", "Segment0_Layer:="],
)  # fmt: skip
def test_liberties_of_other_writers_do_not_hinder(tmp_path, line):
    voxels = np.ones((4, 5, 6), np.uint8)
    path = segments(
        "Segment0_Name:=liver", "Segment0_LabelValue:=1", line,
        voxels=voxels, path=tmp_path / "x.seg.nrrd", kinds="space space space", directions=SPACE,
    )  # fmt: skip
    read, _, (liver,) = read_segmentation(path)
    assert liver.name == "liver" and read.all()


def test_a_packed_segmentation_without_its_checksum_is_refused(tmp_path, image, labels):
    from OFLSAM2Core.io.reading import write_segmentation

    path = tmp_path / "x.seg.nrrd"
    write_segmentation(path, labels, volume_of(image), (Structure("a", 1), Structure("b", 2)))
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(InputError, match="x.seg.nrrd' cannot be read: damaged"):
        read_segmentation(path)


def test_values_a_little_beside_whole_numbers_are_rounded_with_a_word(tmp_path, caplog):
    values = np.array([0, 0.9999, 2.0001, np.nan] * 6, np.float32).reshape(2, 3, 4)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "x.mha"))
    read, _, _ = read_segmentation(tmp_path / "x.mha")
    np.testing.assert_array_equal(read, np.array([0, 1, 2, 0] * 6).reshape(2, 3, 4))
    assert "up to 0.0001 beside whole numbers" in caplog.text
    assert "6 voxels that are NaN; they are background" in caplog.text


def test_values_above_255_are_numbered_and_keep_their_meaning(tmp_path):
    values = np.array([0, 17, 1035, 12175] * 6, np.int32).reshape(2, 3, 4)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "x.mha"))
    read, _, structures = read_segmentation(tmp_path / "x.mha")
    assert [(one.name, one.label) for one in structures] == [
        ("Structure 17", 1), ("Structure 1035", 2), ("Structure 12175", 3)]  # fmt: skip
    np.testing.assert_array_equal(read, np.array([0, 1, 2, 3] * 6).reshape(2, 3, 4))
    table = LabelTable.from_json({"12175": "sulcus", "17": "hippocampus", "1035": "insula"})
    read, _, structures = read_segmentation(tmp_path / "x.mha", table=table)
    by_value = {one.name: one.label for one in structures}
    np.testing.assert_array_equal(read == by_value["insula"], values == 1035)


def test_a_table_of_a_thousand_labels_is_narrowed_to_those_that_occur(tmp_path):
    lines = ["#No. Label Name: R G B A"]
    lines += [f"{n} Region-{n} {n % 256} 10 20 0" for n in range(1, 1200)]
    (tmp_path / "lut.txt").write_text("\n".join(lines))
    values = np.array([0, 3, 900, 3] * 6, np.int16).reshape(2, 3, 4)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "x.mha"))
    table = LabelTable.read(tmp_path / "lut.txt")
    read, _, structures = read_segmentation(tmp_path / "x.mha", table=table)
    assert [(one.name, one.label) for one in structures] == [("Region-3", 1), ("Region-900", 2)]
    np.testing.assert_array_equal(read, np.array([0, 1, 2, 1] * 6).reshape(2, 3, 4))


def test_an_image_is_no_segmentation(tmp_path, image):
    with pytest.raises(InputError, match="looks like an image: it has 199 distinct values"):
        read_support_case(image, image)
    few = (read_volume(image).array // 100).astype(np.uint8)
    write_labelmap(tmp_path / "few.nii.gz", few, read_volume(image))
    with pytest.raises(InputError, match="segmentation of 'few' is the image itself"):
        read_support_case(tmp_path / "few.nii.gz", tmp_path / "few.nii.gz")


TABLES = {
    "labels.json": '{"1": "liver", "3": "portal vein"}',
    "dataset.json": '{"labels": {"background": 0, "liver": 1, "portal vein": 3}}',
    "labels.label": '# ITK-SnAP Label Description File\n 0 0 0 0 0 0 0 "Clear Label"\n'
                    ' 1 255 0 0 1 1 1 "liver"\n 3 0 0 255 0.5 1 1 "portal vein"\n',
    "Colors.ctbl": "# Color table file\n0 background 0 0 0 0\n1 liver 221 130 101 255\n"
                   "3 portal vein 0 151 206 255\n",
    "dseg.tsv": "index\tname\tcolor\n1\tliver\t#dd8265\n3\tportal vein\t#0097ce\n",
    "Colors.csv": "LabelValue,Name,Color_R,Color_G,Color_B,Color_A\n1,liver,221,130,101,255\n"
                  '3,"portal vein",0,151,206,255\n',
    "plain.txt": "1 liver\n3 portal vein\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_label_tables_of_other_programs_are_read(tmp_path, name, encoding, newline):
    (tmp_path / name).write_bytes(TABLES[name].replace("\n", newline).encode(encoding))
    structures = LabelTable.read(tmp_path / name).structures
    assert [(one.name, one.label) for one in structures] == [("liver", 1), ("portal vein", 3)]
    if name.startswith("Colors"):
        np.testing.assert_allclose(structures[0].color, np.array([221, 130, 101]) / 255, atol=0.01)


def write_pictures(folder: Path, pictures: np.ndarray, names: list[str]) -> None:
    folder.mkdir()
    for picture, name in zip(pictures, names, strict=True):
        Image.fromarray(picture).save(folder / name)


@pytest.mark.parametrize(
    ("frames", "masks"),
    [
        (["2.jpg", "10.jpg", "1.jpg"], ["2.png", "10.png", "1.png"]),
        (["f_02.png", "f_10.png", "f_01.png"], ["m2.png", "m10.png", "m1.png"]),
        (["v1_a2.png", "v1_a10.png", "v1_a1.png"], ["2.png", "10.png", "1.png"]),
    ],
)
def test_masks_belong_to_the_frames_of_their_name(tmp_path, frames, masks):
    values = np.array([2, 10, 1], np.uint8)
    pictures = np.broadcast_to(values[:, None, None, None] * 20, (3, 8, 8, 3)).astype(np.uint8)
    write_pictures(tmp_path / "frames", pictures, frames)
    drawn = np.zeros((3, 8, 8), np.uint8)
    drawn[:, 2:5, 2:5] = values[:, None, None]
    write_pictures(tmp_path / "masks", drawn, masks)
    case = read_support_case(tmp_path / "frames", tmp_path / "masks")
    shown = np.rint(case.volume.array[:, 0, 0, 0] / 20).astype(int)
    assert [int(value) for value in case.labels.max(axis=(1, 2))] == shown.tolist() == [1, 2, 10]


def test_masks_whose_names_do_not_show_their_frames_are_refused(tmp_path):
    write_pictures(tmp_path / "frames", np.zeros((2, 8, 8, 3), np.uint8), ["a.png", "b.png"])
    write_pictures(tmp_path / "masks", np.ones((2, 8, 8), np.uint8), ["x.png", "y.png"])
    with pytest.raises(InputError, match="do not tell which frames"):
        read_support_case(tmp_path / "frames", tmp_path / "masks")


def test_a_grey_picture_and_its_mask_are_a_volume_of_one_slice(tmp_path):
    picture = np.random.default_rng(0).integers(0, 60000, (9, 12)).astype(np.uint16)
    Image.fromarray(picture).save(tmp_path / "image.png")
    mask = np.zeros((9, 12), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    case = read_support_case(tmp_path / "image.png", tmp_path / "mask.png")
    np.testing.assert_array_equal(case.volume.array, picture[np.newaxis])
    np.testing.assert_array_equal(case.labels[0], mask > 0)


def test_labels_that_reach_beyond_their_volume_are_named_though_nothing_lies_there(
    tmp_path: Path, labels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of another patient whose volume has the same corner and spacing."""
    image = np.random.default_rng(1).integers(0, 900, SHAPE).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(image), str(tmp_path / "image.nii.gz"))
    larger = np.pad(labels, ((0, 0), (0, 3), (0, 0)))
    for name, own in (("own.nii.gz", labels), ("larger.nii.gz", larger)):
        sitk.WriteImage(sitk.GetImageFromArray(own), str(tmp_path / name))
    read_support_case(tmp_path / "image.nii.gz", tmp_path / "own.nii.gz")
    assert "reaches beyond" not in caplog.text
    case = read_support_case(tmp_path / "image.nii.gz", tmp_path / "larger.nii.gz")
    assert np.array_equal(case.labels, labels)
    assert "larger.nii.gz' reaches beyond the volume" in caplog.text


def test_thirty_thousand_structures_are_refused_at_once(tmp_path: Path) -> None:
    values = np.arange(64**3).reshape(64, 64, 64)
    image, labels = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray((values % 500).astype(np.int16)), str(image))
    sitk.WriteImage(sitk.GetImageFromArray((values % 30_001).astype(np.uint16)), str(labels))
    before = time.process_time()
    with pytest.raises(InputError, match=r"labels\.nii\.gz.*30000 distinct values"):
        read_support_case(image, labels)
    assert time.process_time() - before < 5
