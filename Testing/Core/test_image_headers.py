"""What a header says twice, or does not say, is chosen by one rule with a warning, or refused.

Headers are made byte by byte, or line by line.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.io.reading import read_support_case, read_volume, write_labelmap

SHAPE = (5, 6, 7)
VOXELS = np.arange(210).reshape(SHAPE).astype(np.int16)


def nifti(
    path: Path, *, voxels: np.ndarray = VOXELS, packed: bool = False, **fields: object
) -> Path:
    """A NIfTI-1 file; fields are set after a header that is right: identity by sform."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    dims = [voxels.ndim, *voxels.shape] + [1] * (7 - voxels.ndim)
    codes = {"int16": (4, 16), "uint8": (2, 8), "float32": (16, 32)}
    struct.pack_into("<8h", header, 40, *dims)
    struct.pack_into("<2h", header, 70, *codes[voxels.dtype.name])
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, 352, 1, 0)
    header[123] = 2
    struct.pack_into("<2h", header, 252, 0, 1)
    struct.pack_into("<12f", header, 280, *np.eye(4)[:3].ravel())
    header[344:348] = b"n+1\0"
    at = {"dim0": ("<h", 40), "pixdim": ("<4f", 76), "offset": ("<f", 108), "slope": ("<2f", 112),
          "codes": ("<2h", 252), "quaternion": ("<3f", 256), "place": ("<3f", 268),
          "sform": ("<12f", 280), "datatype": ("<h", 70), "dim": ("<8h", 40)}  # fmt: skip
    for name, value in fields.items():
        if name == "units":
            header[123] = value
        else:
            form, place = at[name]
            struct.pack_into(form, header, place, *np.ravel(value))
    content = bytes(header) + voxels.astype("<" + voxels.dtype.str[1:]).tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    return path


def test_the_sform_is_used_where_both_forms_are_there_and_their_distance_is_reported(
    tmp_path, caplog
):
    path = nifti(tmp_path / "x.nii", codes=(1, 2), place=(10, -5, 3))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    assert "x.nii' is placed in two ways that differ by up to 11.58 mm" in caplog.text


def test_labels_saved_with_the_sform_alone_stay_on_their_voxels(tmp_path):
    nifti(tmp_path / "image.nii", codes=(1, 2), place=(10, -5, 3))
    labels = (VOXELS % 3 == 0).astype(np.uint8)
    nifti(tmp_path / "labels.nii", voxels=labels, codes=(0, 2))
    case = read_support_case(tmp_path / "image.nii", tmp_path / "labels.nii")
    np.testing.assert_array_equal(case.labels.T, labels)


@pytest.mark.parametrize(
    "fields",
    [
        {"codes": (1, 2), "place": (10, -5, 3)},
        {"codes": (1, 0), "quaternion": (0, 0, 0.5), "pixdim": (-1, 2, 2, 3)},
        {"codes": (0, 0), "pixdim": (1, 2, 2.5, 3)},
        {"codes": (0, 4), "sform": np.diag([2, 3, 4, 1.0])[:3]},
        {"codes": (0, 1), "sform": 1000 * np.diag([2, 3, 4, 1.0])[:3], "units": 3},
    ],
    ids=["both", "qform alone", "neither", "sform alone", "micrometres"],
)
def test_a_result_has_the_forms_of_its_image_so_that_every_reader_sees_both_at_one_place(
    tmp_path, fields
):
    path = nifti(tmp_path / "image.nii", **fields)
    volume = read_volume(path)
    write_labelmap(tmp_path / "out.nii.gz", np.ones(volume.grid_shape, np.uint8), volume)
    one, other = (nibabel.load(file).header for file in (path, tmp_path / "out.nii.gz"))
    np.testing.assert_allclose(one.get_best_affine(), other.get_best_affine(), atol=1e-5)
    for form in ("sform", "qform"):
        assert one[f"{form}_code"] == other[f"{form}_code"]
        affine, again = (
            (header.get_sform if form == "sform" else header.get_qform)(coded=True)[0]
            for header in (one, other)
        )
        if affine is not None:
            np.testing.assert_allclose(affine, again, atol=1e-4)
    np.testing.assert_allclose(
        read_volume(tmp_path / "out.nii.gz").affine, volume.affine, atol=1e-4
    )


def test_the_columns_of_the_sform_count_where_pixdim_says_another_spacing(tmp_path, caplog):
    path = nifti(tmp_path / "x.nii", sform=np.diag([0.9, 0.9, 3, 1])[:3])
    np.testing.assert_allclose(read_volume(path).spacing, (0.9, 0.9, 3), rtol=1e-6)
    assert "spacing of (0.9, 0.9, 3) mm by its sform and (1, 1, 1) by its pixdim" in caplog.text


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"codes": (0, 0), "pixdim": (1, 0, 1, 1)}, "spacing of 0 mm along axis i"),
        ({"codes": (1, 0), "pixdim": (1, 1, 1, np.nan)}, "spacing of nan mm along axis k"),
        ({"codes": (0, 0), "pixdim": (1, 1, -2, 1)}, "spacing of -2 mm along axis j"),
        ({"codes": (0, 1), "sform": np.diag([1, 0, 1, 1.0])[:3]}, "0 mm along axis j"),
        ({"codes": (0, 1), "sform": np.full((3, 4), np.nan)}, "NaN or infinite"),
        ({"codes": (0, 1), "sform": np.ones((3, 4))}, "not independent"),
        ({"codes": (1, 0), "quaternion": (1, 1, 1)}, "quaternion of its qform is none"),
        ({"slope": (np.inf, 0)}, "scales voxels by inf"),
        ({"offset": np.inf}, "voxels start at byte inf"),
        ({"dim0": 9}, "9 dimensions"),
        ({"dim": (3, 5, -6, 7, 1, 1, 1, 1)}, "5 x -6 x 7 voxels"),
        ({"dim": (3, 5, 6, 8, 1, 1, 1, 1)}, "420 bytes of voxels, and its header says 480"),
        ({"dim": (3, 3000, 300, 30, 1, 1, 1, 1)}, "420 bytes of voxels"),
        ({"datatype": 32}, "voxels"),
        ({"datatype": 77}, "no known type of voxels (code 77)"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_cannot_be_used_is_refused_with_what_is_wrong(tmp_path, packed, fields, told):
    path = nifti(tmp_path / "x.nii", packed=packed, **fields)
    with pytest.raises(OFLSAM2Error) as caught:
        read_volume(path)
    if not (packed and "bytes of voxels" in told):
        assert told in str(caught.value)
    assert "x.nii'" in str(caught.value) and len(str(caught.value).splitlines()) <= 2


def test_a_valid_qform_serves_where_the_sform_is_none_and_that_is_reported(tmp_path, caplog):
    path = nifti(tmp_path / "x.nii", codes=(1, 1), sform=np.zeros((3, 4)), place=(1, 2, 3))
    np.testing.assert_allclose(read_volume(path).affine[:3, 3], (1, 2, 3))
    assert "has an sform that cannot be used; it is placed by its qform" in caplog.text


@pytest.mark.parametrize("shear", [0.001, 0.05])
def test_a_sheared_sform_is_kept_and_a_large_shear_is_reported(tmp_path, caplog, shear):
    sform = np.eye(4)
    sform[0, 1] = shear
    path = nifti(tmp_path / "x.nii", codes=(1, 1), sform=sform[:3])
    np.testing.assert_allclose(read_volume(path).affine, sform, atol=1e-7)
    assert ("is sheared" in caplog.text) == (shear > 0.01)


@pytest.mark.parametrize(("units", "factor"), [(1, 1000), (3, 0.001)])
def test_other_units_than_millimetres_are_converted_and_reported(tmp_path, caplog, units, factor):
    path = nifti(tmp_path / "x.nii", sform=np.diag([1, 1, 2, 1])[:3] / factor, units=units)
    np.testing.assert_allclose(read_volume(path).spacing, (1, 1, 2), rtol=1e-5)
    assert "x.nii' is in m" in caplog.text


def test_a_unit_that_makes_no_sense_is_reported_and_millimetres_are_taken(tmp_path, caplog):
    volume = read_volume(nifti(tmp_path / "x.nii", units=1))
    assert volume.spacing == (1, 1, 1)
    assert "says that it is in metres" in caplog.text


def test_no_orientation_at_all_is_reported(tmp_path, caplog):
    read_volume(nifti(tmp_path / "x.nii", codes=(0, 0)))
    assert "does not say how it is oriented" in caplog.text


def test_scaled_voxels_are_real_or_whole_as_the_scaling_is(tmp_path):
    shifted = read_volume(nifti(tmp_path / "a.nii", slope=(1, -1024)))
    assert shifted.array.dtype == np.int16
    np.testing.assert_array_equal(shifted.array.T, VOXELS - 1024)
    real = read_volume(nifti(tmp_path / "b.nii", slope=(0.5, 0.25)))
    np.testing.assert_allclose(real.array.T, VOXELS * 0.5 + 0.25)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.img"])
def test_packed_or_not_is_recognised_by_the_content_not_by_the_name(tmp_path, name):
    for packed in (False, True):
        if not name.endswith(".img"):
            path = nifti(tmp_path / name, packed=packed)
            np.testing.assert_array_equal(read_volume(path).array.T, VOXELS)


@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        (nibabel.Nifti2Image, "x.nii.gz", "x.nii.gz"),
        (nibabel.Nifti1Pair, "x.img", "x.hdr"),
        (nibabel.Nifti1Pair, "x.img", "x.img"),
        (nibabel.Nifti2Pair, "x.img.gz", "x.hdr.gz"),
        (nibabel.Nifti1Pair, "x.img.gz", "x.img.gz"),
        (nibabel.MGHImage, "x.mgz", "x.mgz"),
        (nibabel.MGHImage, "x.mgh", "x.mgh"),
    ],
)
def test_relatives_of_nifti_are_read_as_nibabel_reads_them(tmp_path, kind, name, given):
    turn = nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3)
    affine = nibabel.affines.from_matvec(turn * (0.7, 0.9, 2.5), (-20, 31, 7)).astype(np.float32)
    nibabel.save(kind(VOXELS, affine), tmp_path / name)
    volume = read_volume(tmp_path / given)
    np.testing.assert_array_equal(volume.array.T, VOXELS)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert volume.name == "x"


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("size", [8, 3000])
def test_an_extension_behind_the_header_does_not_hinder(tmp_path, kind, size):
    image = kind(VOXELS, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"x" * size))
    nibabel.save(image, tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "x.nii.gz").array.T, VOXELS)


def test_the_scale_that_spm_writes_into_analyze_counts_with_a_warning(tmp_path, caplog):
    image = nibabel.Spm99AnalyzeImage(VOXELS.astype(np.float32) * 0.013, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "x.img")
    (tmp_path / "x.mat").unlink()
    expected = nibabel.Spm99AnalyzeImage.load(tmp_path / "x.img").get_fdata()
    np.testing.assert_allclose(read_volume(tmp_path / "x.img").array.T, expected, rtol=1e-5)
    assert "scales its values by" in caplog.text
    plain = nibabel.AnalyzeImage(VOXELS, np.eye(4))
    nibabel.save(plain, tmp_path / "y.img")
    np.testing.assert_array_equal(read_volume(tmp_path / "y.img").array.T, VOXELS)


def test_a_pair_without_its_voxels_says_which_file_is_missing(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(VOXELS, np.eye(4)), tmp_path / "x.img")
    (tmp_path / "x.img").unlink()
    with pytest.raises(OFLSAM2Error, match="belong into 'x.img', which is not there"):
        read_volume(tmp_path / "x.hdr")


def nrrd(path: Path, *lines: str, voxels: np.ndarray = VOXELS) -> Path:
    """A NRRD file of the given lines after type and encoding."""
    sizes = " ".join(map(str, voxels.shape))
    head = ["NRRD0004", "type: short", f"dimension: {voxels.ndim}", f"sizes: {sizes}",
            "encoding: raw", "endian: little", *lines]  # fmt: skip
    content = voxels.astype("<i2").tobytes(order="F")
    path.write_bytes("\n".join(head).encode() + b"\n\n" + content)
    return path


DIRECTIONS = "space directions: (1,0,0) (0,2,0) (0,0,3)"


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("ras", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_the_space_of_a_nrrd_file_says_where_left_is(tmp_path, caplog, space, signs):
    path = nrrd(tmp_path / "x.nrrd", f"space: {space}", DIRECTIONS, "space origin: (4,5,6)")
    volume = read_volume(path)
    np.testing.assert_allclose(np.diag(volume.affine)[:3], np.array(signs) * (1, 2, 3))
    np.testing.assert_allclose(volume.affine[:3, 3], np.array(signs) * (4, 5, 6))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((), "spacing of its voxels (1 mm is taken) nor how it is oriented"),
        (("spacings: 1 2 3",), "does not say how it is oriented"),
        (("space: scanner-xyz", DIRECTIONS), "in the space 'scanner-xyz', so left and right"),
        (("space dimension: 3", DIRECTIONS), "in no space, so left and right"),
        (
            ("space: LPS", DIRECTIONS, 'space units: "um" "um" "um"'),
            "is in um; its spacing was changed to mm",
        ),
    ],
)
def test_what_a_nrrd_header_leaves_open_is_reported(tmp_path, caplog, lines, told):
    read_volume(nrrd(tmp_path / "x.nrrd", *lines))
    assert told in caplog.text


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("space: LPS", "space directions: (1,0,0) (0,0,0) (0,0,3)"), "0 mm along axis j"),
        (("space: LPS", "space directions: (1,0,0) (0,nan,0) (0,0,3)"), "NaN"),
        (("spacings: 1 -1 3",), "spacing is negative"),
        (("space: LPS", "space directions: (1,0,0) (0,1,0)"), "2 space directions for 3 axes"),
        (("space: LPS", "space directions: (1,0,0) (0,a,0) (0,0,1)"), "damaged"),
        (("sizes: 5 6 -7",), "5 6 -7 voxels"),
        (("sizes: 5 6 7000000",), "420 bytes of voxels"),
        (("type: block",), "unknown 'block'"),
        (("encoding: zrl",), "unknown 'zrl'"),
        (("data file: gone.raw",), "'gone.raw', which is not there"),
    ],
)
def test_a_nrrd_header_that_cannot_be_used_is_refused(tmp_path, lines, told):
    with pytest.raises(OFLSAM2Error) as caught:
        read_volume(nrrd(tmp_path / "x.nrrd", *lines))
    assert told in str(caught.value) and "x.nrrd'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "encoding"), [("x.nhdr", "raw"), ("x.nhdr", "gzip"), ("y.nrrd", "ascii")]
)
def test_voxels_beside_a_nrrd_header_or_in_text_are_read(tmp_path, name, encoding):
    lines = ["NRRD0004", "type: short", "dimension: 3", "sizes: 5 6 7", f"encoding: {encoding}",
             "endian: little", "space: LPS", DIRECTIONS]  # fmt: skip
    raw = VOXELS.astype("<i2").tobytes(order="F")
    if encoding == "ascii":
        text = "\n".join(map(str, VOXELS.ravel(order="F")))
        (tmp_path / name).write_text("\n".join([*lines, "", text]))
    else:
        (tmp_path / "voxels").write_bytes(gzip.compress(raw) if encoding == "gzip" else raw)
        (tmp_path / name).write_text("\n".join([*lines, "data file: voxels"]) + "\n")
    np.testing.assert_array_equal(read_volume(tmp_path / name).array.T, VOXELS)


def meta(path: Path, *lines: str) -> Path:
    head = ["ObjectType = Image", "NDims = 3", "DimSize = 5 6 7", "ElementType = MET_SHORT", *lines,
            "ElementDataFile = LOCAL"]  # fmt: skip
    path.write_bytes("\n".join(head).encode() + b"\n" + VOXELS.astype("<i2").tobytes(order="F"))
    return path


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("NDims = -3",), "-3 dimensions"),
        (("DimSize = 5 6 -7",), "5 6 -7 voxels"),
        (("DimSize = 5 6 7000",), "420 bytes of voxels"),
        (("ElementSpacing = 1 0 1",), "0 mm along axis j"),
        (("ElementSpacing = 1 -1 1",), "spacing is negative"),
        (("ElementSpacing = 1 a 1",), "damaged"),
        (("ElementSpacing = 1 1",), "another number of values"),
        (("TransformMatrix = 1 0 0 1 0 0 0 0 1",), "not independent"),
        (("ElementType = MET_OTHER",), "unknown 'MET_OTHER'"),
        (("ElementNumberOfChannels = 0",), "0 values in every voxel"),
        (("CompressedData = True",), "packed data are damaged"),
    ],
)
def test_a_meta_image_header_that_cannot_be_used_is_refused(tmp_path, lines, told):
    with pytest.raises(OFLSAM2Error) as caught:
        read_volume(meta(tmp_path / "x.mha", *lines))
    assert told in str(caught.value) and "x.mha'" in str(caught.value)


def test_what_a_meta_image_header_leaves_open_is_reported(tmp_path, caplog):
    assert read_volume(meta(tmp_path / "x.mha")).spacing == (1, 1, 1)
    assert "does not say the spacing" in caplog.text and "how it is oriented" in caplog.text


def test_a_list_of_slices_is_read_and_one_that_is_missing_is_named(tmp_path):
    for k in range(7):
        (tmp_path / f"{k}.raw").write_bytes(VOXELS[..., k].astype("<i2").tobytes(order="F"))
    path = tmp_path / "x.mhd"
    head = "NDims = 3\nDimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = "
    for how in ("LIST\n" + "\n".join(f"{k}.raw" for k in range(7)), "%d.raw 0 6 1"):
        path.write_text(head + how + "\n")
        np.testing.assert_array_equal(read_volume(path).array.T, VOXELS)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, VOXELS)
    path.write_text(head + "LIST\n")
    with pytest.raises(OFLSAM2Error, match="lists no files"):
        read_volume(path)
    (tmp_path / "3.raw").unlink()
    path.write_text(head + "%d.raw 0 6 1")
    with pytest.raises(OFLSAM2Error, match="'3.raw', which is not there"):
        read_volume(path)


def test_an_empty_file_is_called_empty(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"")
    with pytest.raises(OFLSAM2Error, match="it is empty: 0 bytes"):
        read_volume(tmp_path / "x.nii.gz")


def test_bytes_beyond_what_the_header_says_are_reported(tmp_path, caplog):
    path = nifti(tmp_path / "x.nii", packed=True, dim=(3, 5, 6, 1, 1, 1, 1, 1))
    read_volume(path)
    assert caplog.text == ""  # A few bytes are padding.
    voxels = np.zeros((50, 60, 7), np.int16)
    path = nifti(tmp_path / "y.nii", voxels=voxels, packed=True, dim=(3, 50, 60, 5, 1, 1, 1, 1))
    read_volume(path)
    assert "y.nii' holds 12000 bytes more than its header says" in caplog.text


@seed(1)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["x.nii", "x.nrrd", "x.mha"]),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_whatever_bytes_a_header_has_it_is_read_or_refused_in_words(tmp_path, name, changes):
    make = {"x.nii": nifti, "x.nrrd": nrrd, "x.mha": meta}[name]
    content = bytearray(make(tmp_path / name).read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / name).write_bytes(content)
    try:
        volume = read_volume(tmp_path / name)
    except OFLSAM2Error as error:
        assert name in str(error)
    else:
        assert isinstance(volume, Volume) and np.isfinite(volume.affine).all()


def test_a_spacing_that_no_scanner_has_is_reported(tmp_path, caplog):
    read_volume(nifti(tmp_path / "x.nii", sform=np.diag([5e-4, 5e-4, 5e-4, 1])[:3]))
    assert "spacing of (0.0005, 0.0005, 0.0005) mm, as hardly a scanner has" in caplog.text


META = (
    "ObjectType = Image\nNDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
    "ElementSpacing = 1 1 1\nDimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 6 7\nspace: left-posterior-superior\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\n"
    "encoding: raw\n\n"
)


@pytest.mark.parametrize(
    ("name", "header", "line", "instead", "told"),
    [
        ("x.mha", META, "Offset = 0 0 0\n", "", "does not say where it lies"),
        ("x.mha", META, "1 0 0 0 1 0 0 0 1", "2 0 0 0 2 0 0 0 1", "of the lengths 2, 2, 1"),
        ("x.nrrd", NRRD, "space origin: (0,0,0)\n", "", "does not say where it lies"),
        ("x.nrrd", NRRD, "endian: little\n", "", "does not say the order of its bytes"),
    ],
)
def test_an_origin_byte_order_or_length_that_is_filled_in_is_reported(
    tmp_path, caplog, name, header, line, instead, told
):
    assert line in header
    content = VOXELS.astype("<i2").tobytes(order="F")
    (tmp_path / name).write_bytes(header.encode() + content)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array.T, VOXELS)
    assert not caplog.text
    (tmp_path / name).write_bytes(header.replace(line, instead).encode() + content)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array.T, VOXELS)
    assert f"{name}' " in caplog.text and told in caplog.text


def test_a_scaling_that_adds_nan_and_an_origin_where_no_patient_lies_are_refused(tmp_path):
    header = nifti(tmp_path / "x.nii", slope=(2, np.nan))
    with pytest.raises(OFLSAM2Error, match=r"x\.nii.* scales voxels by 2 and adds nan"):
        read_volume(header)
    far = np.eye(4)[:3]
    far[1, 3] = 3e8
    with pytest.raises(OFLSAM2Error, match=r"x\.nii.* lies 3e\+08 mm from the origin"):
        read_volume(nifti(tmp_path / "x.nii", sform=far))


def test_numbers_that_single_precision_does_not_hold_are_background_and_counted(tmp_path, caplog):
    voxels = VOXELS.astype(float)
    voxels[0, 0, :2] = 1e300, -1e300
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "x.nii")
    array = read_volume(tmp_path / "x.nii").array
    assert array[:2, 0, 0].tolist() == [2, 2] and np.isfinite(array.astype(np.float32)).all()
    assert "x.nii' has 2 voxels that are NaN or infinite in single precision" in caplog.text
