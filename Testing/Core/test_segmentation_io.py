"""Segmentations come in on the volume's grid, or with a clear error; they go out for Slicer."""

from __future__ import annotations

import logging
import re
from itertools import permutations, product
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from PIL import Image

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.label_table import LabelTable, default_color
from OFLSAM2Core.io.reading import (
    read_segmentation,
    read_support_case,
    read_volume,
    write_labelmap,
    write_segmentation,
)

SAMPLES = Path(__file__).parents[2] / "Resources" / "SampleData"
ATRIUM = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^59652004^Atrium~SCT^7771000^Left"
    "~Anatomic codes - DICOM master list~^^~^^"
)
STRUCTURES = (
    Structure("left atrium", 2, (0.9, 0.25, 0.125), ATRIUM),
    Structure("wall: thick & thin", 5, (0.0, 0.5, 1.0)),
)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    """An oblique volume, also on disk as image.nrrd."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (7, 9, 11)))
    image = sitk.Cast(image, sitk.sitkInt16)
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-20.5, 31.25, 7.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.3, 0.4).GetMatrix())
    sitk.WriteImage(image, str(tmp_path / "image.nrrd"))
    return read_volume(tmp_path / "image.nrrd")


@pytest.fixture
def labels(volume: Volume) -> np.ndarray:
    labels = np.zeros(volume.grid_shape, np.uint8)
    labels[2:5, 3:6, 4:9] = 2
    labels[3, 4:7, 8:10] = 5
    return labels


def write_like_slicer(path: Path, masks: list[np.ndarray], volume: Volume, **of_file: bool) -> None:
    """A .seg.nrrd as Slicer writes it: cropped to what is drawn, a layer more where segments
    overlap. Made with slicerio alone, so that it does not share our writer's mistakes."""
    drawn = np.argwhere(np.any(masks, axis=0))
    first, last = drawn.min(axis=0), drawn.max(axis=0) + 1
    crop = tuple(slice(low, high) for low, high in zip(first, last, strict=True))
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*first[::-1], 1])[:3]
    size = (last - first)[::-1]
    data = slicerio.create_segmentation(size, np.diag([-1, -1, 1, 1]) @ affine)
    for number, mask in enumerate(masks):
        data = data if number else {**data, "segments": []}
        slicerio.add_segment(
            data,
            mask[crop].transpose(2, 1, 0),
            {"id": f"Segment_{number + 1}", "name": f"part {number + 1}", "color": [0.1, 0.2, 0.3]},
        )
    slicerio.write_segmentation(str(path), data)


def test_a_written_segmentation_comes_back_with_names_colours_and_terminology(
    tmp_path, volume, labels
):
    write_segmentation(tmp_path / "out.seg.nrrd", labels, volume, STRUCTURES)
    read, affine, structures = read_segmentation(tmp_path / "out.seg.nrrd")
    np.testing.assert_array_equal(read, labels)
    np.testing.assert_allclose(affine, volume.affine, atol=1e-9)
    assert structures == STRUCTURES
    assert structures[0].code == "SCT:59652004|SCT:7771000"


def test_a_written_segmentation_has_the_fields_that_slicer_reads(tmp_path, volume, labels):
    write_segmentation(tmp_path / "out.seg.nrrd", labels, volume, STRUCTURES)
    voxels, header = nrrd.read(str(tmp_path / "out.seg.nrrd"))
    assert voxels.dtype == np.uint8
    assert header["space"] == "left-posterior-superior"
    assert header["Segment0_ID"] == "Segment_2"
    assert header["Segment0_LabelValue"] == "2"
    assert header["Segment0_Layer"] == "0"
    assert header["Segment0_Extent"] == "0 10 0 8 0 6"
    assert header["Segment0_Tags"].startswith(f"TerminologyEntry:{ATRIUM}|")
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    parameters = header["Segmentation_ConversionParameters"]
    assert parameters.endswith("&")  # without it, Slicer drops the last parameter
    geometry = parameters.split("|")[1].split(";")
    np.testing.assert_allclose(np.array(geometry[:16], float).reshape(4, 4), volume.affine)
    assert geometry[16:22] == ["0", "10", "0", "8", "0", "6"]


def test_names_and_terminology_in_any_language_are_kept(tmp_path, volume, labels):
    heart = ATRIUM.replace("Atrium", "Vorhöfe, 心房")
    assert heart != ATRIUM
    named = (Structure("Œsophage (Größe 2)", 2), Structure("心房", 5, terminology=heart))
    write_segmentation(tmp_path / "out.seg.nrrd", labels, volume, named)
    read = read_segmentation(tmp_path / "out.seg.nrrd")[2]
    assert [(item.name, item.terminology) for item in read] == [
        (item.name, item.terminology) for item in named
    ]
    header = sitk.ReadImage(str(tmp_path / "out.seg.nrrd"))
    assert header.GetMetaData("Segment1_Name") == "心房"


def test_simpleitk_finds_the_written_segmentation_at_the_volumes_place(tmp_path, volume, labels):
    write_segmentation(tmp_path / "out.seg.nrrd", labels, volume, STRUCTURES)
    image = sitk.ReadImage(str(tmp_path / "image.nrrd"))
    written = sitk.ReadImage(str(tmp_path / "out.seg.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), labels)
    assert written.GetOrigin() == pytest.approx(image.GetOrigin())
    assert written.GetSpacing() == pytest.approx(image.GetSpacing())
    assert written.GetDirection() == pytest.approx(image.GetDirection())


def test_a_segmentation_that_slicer_cropped_is_put_where_it_was(tmp_path, volume, labels):
    write_like_slicer(tmp_path / "part.seg.nrrd", [labels == 2, labels == 5], volume)
    read, _, _ = read_segmentation(tmp_path / "part.seg.nrrd")
    assert read.shape != volume.grid_shape
    case = read_support_case(tmp_path / "image.nrrd", tmp_path / "part.seg.nrrd")
    assert [structure.name for structure in case.structures] == ["part 1", "part 2"]
    first, second = (structure.label for structure in case.structures)
    np.testing.assert_array_equal(case.labels == first, labels == 2)
    np.testing.assert_array_equal(case.labels == second, labels == 5)


def test_where_segments_overlap_the_later_one_is_taken_with_a_warning(
    tmp_path, volume, labels, caplog
):
    large, small = labels > 0, labels == 5
    write_like_slicer(tmp_path / "both.seg.nrrd", [large, small], volume)
    with caplog.at_level(logging.WARNING):
        case = read_support_case(tmp_path / "image.nrrd", tmp_path / "both.seg.nrrd")
    assert f"overlap in {small.sum()} voxels" in caplog.text
    np.testing.assert_array_equal(case.labels == case.structures[1].label, small)
    np.testing.assert_array_equal(case.labels == case.structures[0].label, large & ~small)


def test_voxels_of_a_value_that_no_segment_has_are_counted(tmp_path, volume, labels, caplog):
    file = tmp_path / "odd.seg.nrrd"
    write_segmentation(file, labels, volume, STRUCTURES)
    read_segmentation(file)
    assert not caplog.records
    stored, header = nrrd.read(str(file))
    stored[0, 0, :3] = 7
    nrrd.write(str(file), stored, header)
    found, *_ = read_segmentation(file)
    assert set(np.unique(found)) == {0, 2, 5}
    assert "3 voxels of" in caplog.text and "no segment of it has" in caplog.text


def test_the_later_segment_wins_whatever_layer_it_is_in(tmp_path):
    """Segments 1 and 3 share a layer; 2, in its own, lies between them in order."""
    volume = Volume(np.zeros((1, 1, 3)))
    masks = [np.array([[pattern]], bool) for pattern in ([1, 0, 0], [1, 1, 0], [0, 1, 1])]
    write_like_slicer(tmp_path / "x.seg.nrrd", masks, volume)
    layers = [
        segment["layer"]
        for segment in slicerio.read_segmentation(str(tmp_path / "x.seg.nrrd"), skip_voxels=True)[
            "segments"
        ]
    ]
    assert layers == [0, 1, 0]
    labels, _, structures = read_segmentation(tmp_path / "x.seg.nrrd")
    _, second, third = (structure.label for structure in structures)
    assert labels.ravel().tolist() == [second, third, third]


def test_segments_of_the_same_value_in_their_own_layers_are_distinguished(tmp_path):
    """As Slicer 4.10 wrote them: value 1 each, and the layer by order alone."""
    voxels = np.zeros((2, 3, 4, 5), np.uint8)
    voxels[0, 0], voxels[1, 2] = 1, 1
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.vstack([np.full(3, np.nan), np.eye(3)]),
        "space origin": np.zeros(3),
        "Segment0_ID": "A",
        "Segment0_Name": "first",
        "Segment0_Color": "1 0 0",
        "Segment1_ID": "B",
        "Segment1_Name": "second",
        "Segment1_Color": "0 1 0",
    }
    nrrd.write(str(tmp_path / "old.seg.nrrd"), voxels, header)
    labels, _, structures = read_segmentation(tmp_path / "old.seg.nrrd")
    assert [(item.name, item.label) for item in structures] == [("first", 1), ("second", 2)]
    np.testing.assert_array_equal(labels.T, voxels[0] + 2 * voxels[1])


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_labels_stored_with_other_axes_are_turned_onto_the_volumes_grid(
    tmp_path, volume, labels, order
):
    image = sitk.ReadImage(str(tmp_path / "image.nrrd"))
    drawn = sitk.GetImageFromArray(labels)
    drawn.CopyInformation(image)
    drawn = sitk.RegionOfInterest(drawn, (9, 6, 5), (2, 2, 1))
    for flips in product((False, True), repeat=3):
        turned = sitk.Flip(sitk.PermuteAxes(drawn, order), flips)
        sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
        case = read_support_case(tmp_path / "image.nrrd", tmp_path / "turned.nii.gz")
        np.testing.assert_array_equal(case.labels, labels)


def moved(path: Path, labels: np.ndarray, volume: Volume, change: np.ndarray) -> None:
    write_labelmap(path, labels, Volume(volume.array, volume.affine @ change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (np.diag([1.1, 1.0, 1.0, 1.0]), r"spacing \(0.77, 0.9, 2.5\) and \(0.7, 0.9, 2.5\) mm"),
        (np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "origin"),
        (
            np.array([[0.995, -0.0998 * 9 / 7, 0, 0], [0.0998 * 7 / 9, 0.995, 0, 0], [0, 0, 1, 0],
                      [0, 0, 0, 1]]),
            "axes turned by",
        ),
    ],
    ids=["spacing", "half a voxel aside", "turned"],
)  # fmt: skip
def test_labels_on_another_grid_are_resampled_with_a_word_on_how_the_grids_differ(
    tmp_path, volume, labels, change, told, caplog
):
    """Where a labelled voxel's centre is in the world, the nearest voxel of the image has its
    label."""
    moved(tmp_path / "other.nrrd", labels, volume, change)
    case = read_support_case(tmp_path / "image.nrrd", tmp_path / "other.nrrd")
    assert re.search(f"other.nrrd' is on another grid.*image.nrrd'.*{told}", caplog.text)
    expected = np.zeros(volume.grid_shape, np.uint8)
    for index in np.ndindex(*volume.grid_shape):
        world = volume.affine @ [*index[::-1], 1]
        nearest = np.linalg.inv(volume.affine @ change) @ world
        k, j, i = np.floor(nearest[:3][::-1] + 0.5).astype(int)
        if all(0 <= at < size for at, size in zip((k, j, i), labels.shape, strict=True)):
            expected[index] = labels[k, j, i]
    assert np.count_nonzero(case.labels != expected) <= 2  # At half a voxel either is right.
    assert set(np.unique(case.labels)) == {0, 2, 5}


def test_a_structure_that_a_coarser_grid_would_lose_is_an_error(tmp_path, volume):
    fine = np.zeros((14, 18, 22), np.uint8)
    fine[4:10, 4:14, 4:16], fine[7, 7, 7] = 1, 2
    affine = volume.affine @ np.diag([0.5, 0.5, 0.5, 1])
    write_labelmap(tmp_path / "fine.nrrd", fine, Volume(fine, affine))
    with pytest.raises(InputError, match="loses the structures of value 2 on the grid"):
        read_support_case(tmp_path / "image.nrrd", tmp_path / "fine.nrrd")


def test_labels_of_another_size_and_place_are_an_error(tmp_path, volume, labels):
    case = read_volume(SAMPLES / "hippocampus_003_image.nii.gz")
    with pytest.raises(InputError, match=r"\d\d% .*outside.*34 x 52 x 35 and 11 x 9 x 7 voxels"):
        write_labelmap(tmp_path / "x.nrrd", np.ones(case.grid_shape, np.uint8), case)
        read_support_case(tmp_path / "image.nrrd", tmp_path / "x.nrrd")


def test_labels_outside_the_volume_are_an_error_and_empty_margins_are_not(tmp_path, volume, labels):
    wide = np.pad(labels, 3)
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [-3, -3, -3, 1])[:3]
    write_labelmap(tmp_path / "wide.nrrd", wide, Volume(wide, affine))
    case = read_support_case(tmp_path / "image.nrrd", tmp_path / "wide.nrrd")
    np.testing.assert_array_equal(case.labels, labels)
    wide[0, 0, :4] = 2
    write_labelmap(tmp_path / "wide.nrrd", wide, Volume(wide, affine))
    with pytest.raises(InputError, match="wide.nrrd' has 4 labelled voxels outside the volume"):
        read_support_case(tmp_path / "image.nrrd", tmp_path / "wide.nrrd")


def test_values_are_named_by_the_table_or_numbered(tmp_path, volume, labels):
    write_labelmap(tmp_path / "x.nii.gz", labels, volume)
    _, _, found = read_segmentation(tmp_path / "x.nii.gz")
    assert [(item.name, item.label) for item in found] == [("Structure 2", 2), ("Structure 5", 5)]
    assert found[0].color != found[1].color
    table = LabelTable.from_json({"0": "background", "2": "atrium", "5": "wall", "7": "valve"})
    _, _, named = read_segmentation(tmp_path / "x.nii.gz", table=table)
    assert [item.name for item in named] == ["atrium", "wall", "valve"]


def test_a_value_that_the_table_lacks_is_listed(tmp_path, volume, labels):
    write_labelmap(tmp_path / "x.nii.gz", labels, volume)
    table = LabelTable.from_json({"2": "atrium"}, "names.json")
    with pytest.raises(InputError, match="x.nii.gz' has values that 'names.json' does not name: 5"):
        read_segmentation(tmp_path / "x.nii.gz", table=table)


def write_values(path: Path, values: np.ndarray) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((3, 4, 5), np.uint8), "is empty"),
        (np.full((3, 4, 5), 0.5, np.float32), "not whole numbers"),
        (np.full((3, 4, 5), np.inf, np.float32), "not whole numbers"),
        (np.full((3, 4, 5), -1, np.int16), "from -1 to -1"),
        (np.arange(300, dtype=np.int16).reshape(5, 6, 10), "looks like an image: it has 299"),
    ],
    ids=["empty", "fractions", "infinite", "negative", "too many"],
)
def test_what_is_no_labelmap_is_an_error(tmp_path, values, told):
    write_values(tmp_path / "bad.nrrd", values)
    with pytest.raises(InputError, match=f"bad.nrrd' .*{told}"):
        read_segmentation(tmp_path / "bad.nrrd")


def test_whole_numbers_stored_as_real_numbers_are_labels(tmp_path):
    write_values(tmp_path / "real.nii.gz", np.full((3, 4, 5), 2.0, np.float64))
    read, _, structures = read_segmentation(tmp_path / "real.nii.gz")
    assert read.dtype == np.uint8
    assert [structure.label for structure in structures] == [2]


def test_a_missing_segmentation_is_named(tmp_path):
    for name in ("gone.seg.nrrd", "gone.nii.gz"):
        with pytest.raises(InputError, match=f"There is no file.*{name}"):
            read_segmentation(tmp_path / name)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.98], ids=lambda keep: f"{keep:.0%} kept")
def test_a_truncated_seg_nrrd_is_an_error_of_a_few_lines(tmp_path, volume, labels, keep):
    write_segmentation(tmp_path / "whole.seg.nrrd", labels, volume, STRUCTURES)
    content = (tmp_path / "whole.seg.nrrd").read_bytes()
    (tmp_path / "half.seg.nrrd").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=r"half.seg.nrrd'") as caught:
        read_segmentation(tmp_path / "half.seg.nrrd")
    assert len(str(caught.value).splitlines()) <= 2


def test_a_seg_nrrd_without_segments_or_with_nonsense_is_an_error(tmp_path, volume, labels):
    write_segmentation(tmp_path / "x.seg.nrrd", labels, volume, STRUCTURES)
    data = slicerio.read_segmentation(str(tmp_path / "x.seg.nrrd"))
    slicerio.write_segmentation(str(tmp_path / "none.seg.nrrd"), {**data, "segments": []})
    with pytest.raises(InputError, match="none.seg.nrrd' has no structures"):
        read_segmentation(tmp_path / "none.seg.nrrd")
    for field in ({"layer": 3}, {"labelValue": 0}, {"labelValue": -2}):
        spoiled = [{**data["segments"][0], **field}]
        slicerio.write_segmentation(str(tmp_path / "bad.seg.nrrd"), {**data, "segments": spoiled})
        with pytest.raises(InputError, match="bad.seg.nrrd' cannot be read.*no segment can have"):
            read_segmentation(tmp_path / "bad.seg.nrrd")
    data["voxels"] = data["voxels"].astype(np.float32)
    slicerio.write_segmentation(str(tmp_path / "real.seg.nrrd"), data)
    with pytest.raises(InputError, match="real.seg.nrrd' cannot be read.*not label values"):
        read_segmentation(tmp_path / "real.seg.nrrd")


def test_a_plain_nrrd_named_seg_nrrd_says_that_it_has_no_segments(tmp_path):
    write_values(tmp_path / "plain.seg.nrrd", np.ones((3, 4, 5), np.uint8))
    with pytest.raises(InputError, match="plain.seg.nrrd' has no structures"):
        read_segmentation(tmp_path / "plain.seg.nrrd")


def test_masks_of_a_palette_keep_their_values(tmp_path):
    masks = np.random.default_rng(0).integers(0, 4, (2, 6, 8), dtype=np.uint8)
    for number, mask in enumerate(masks):
        picture = Image.fromarray(mask).convert("P")
        picture.putdata(mask.ravel().tolist())
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
        picture.save(tmp_path / f"{number}.png")
    read, affine, _ = read_segmentation(tmp_path)
    np.testing.assert_array_equal(read, masks)
    np.testing.assert_array_equal(affine, np.eye(4))


def test_colour_masks_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match="has no masks: neither PNG files"):
        read_segmentation(tmp_path)
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "1.png")
    with pytest.raises(InputError, match="1.png' is not an 8-bit grey or palette picture"):
        read_segmentation(tmp_path)


def test_the_sample_cases_are_read_with_their_table():
    table = LabelTable.read(SAMPLES / "dataset.json")
    case = read_support_case(
        SAMPLES / "hippocampus_001_image.nii.gz",
        SAMPLES / "hippocampus_001_label.nii.gz",
        table=table,
    )
    assert [structure.name for structure in case.structures] == [
        "anterior hippocampus",
        "posterior hippocampus",
    ]
    for structure in case.structures:
        assert 500 < np.count_nonzero(case.labels == structure.label) < 5000


def test_a_label_table_gives_names_colours_and_terminology(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(
        '[{"name": "atrium", "label": 1, "color": [1, 0, 0.5], "terminology": "a~b^c^d~e^f^g"},'
        ' {"name": "wall", "label": 2}]'
    )
    atrium, wall = LabelTable.read(path).structures
    assert atrium == Structure("atrium", 1, (1.0, 0.0, 0.5), "a~b^c^d~e^f^g")
    assert wall.color == default_color(2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ('{"one": "atrium"}', "is not a label table"),
        ('[{"label": 1}]', "is not a label table"),
        ('"atrium"', "is not a label table"),
        ("[1, 2]", "is not a label table"),
        ('{"-3": "atrium"}', "negative"),
        ('{"whole": [1, 2], "core": 2}', "'whole' is a region of several values"),
        ('{"1": "a", "2": "a"}', "more than one structure with the name a"),
        ("{}", "has no structures"),
    ],
)
def test_a_bad_label_table_is_named_with_what_is_wrong(tmp_path, text, told):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(InputError, match="labels.json") as caught:
        LabelTable.read(tmp_path / "labels.json")
    assert told in str(caught.value)


def test_a_missing_label_table_is_named(tmp_path):
    with pytest.raises(InputError, match="There is no file '.*gone.json'"):
        LabelTable.read(tmp_path / "gone.json")


def test_the_first_thirty_default_colours_are_all_different():
    colors = np.array([default_color(label) for label in range(1, 31)])
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distances[~np.eye(30, dtype=bool)].min() > 0.03
