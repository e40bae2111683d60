"""A result says of which image it was made, in every format, and through Slicer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from OFLSAM2Core import read_support_case, read_volume, write_labelmap, write_segmentation
from OFLSAM2Core.data.image_identity import IDENTITY_TAG, image_identity
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.io.made_of import images_made_of

BOX = (Structure("box", 1), Structure("ball", 2))


def _volume(seed: int = 1) -> Volume:
    values = np.random.default_rng(seed).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    return Volume(values, np.diag([1.0, 1.0, 3.0, 1.0]))


def test_an_image_is_the_same_however_its_voxels_are_stored() -> None:
    volume = _volume()
    as_float = replace(volume, array=volume.array.astype(np.float64))
    turned = np.diag([1.0, -1.0, 3.0, 1.0])
    turned[1, 3] = 5.0
    flipped = replace(volume, array=volume.array[:, ::-1], affine=turned)
    other_order = volume.affine[:, [2, 1, 0, 3]]
    k_first = replace(volume, array=volume.array.transpose(2, 1, 0), affine=other_order)
    for same in (as_float, flipped, k_first):
        assert image_identity(same) == image_identity(volume)
    one_voxel = volume.array.copy()
    one_voxel[4, 5, 6] += 1
    mirrored = replace(volume, array=volume.array[:, :, ::-1])
    for other in (replace(volume, array=one_voxel), mirrored, _volume(2)):
        assert image_identity(other) != image_identity(volume)


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha"])
def test_every_format_says_of_which_image_it_is(ending: str, tmp_path: Path) -> None:
    volume, path = _volume(), tmp_path / f"result{ending}"
    labels = (volume.array > 900).astype(np.uint8)
    if ending == ".seg.nrrd":
        write_segmentation(path, labels, volume, BOX)
    else:
        write_labelmap(path, labels, volume)
    assert images_made_of(path) == {image_identity(volume)}


def test_the_voxels_of_an_image_are_read_once_for_all_its_outputs(tmp_path: Path) -> None:
    class Counted(np.ndarray):
        """Counts how often its voxels are turned into numbers to hash."""

        read = 0

        def __getitem__(self, key: object) -> np.ndarray:
            Counted.read += 1
            return super().__getitem__(key)  # type: ignore[no-any-return]

    volume = _volume()
    volume = replace(volume, array=volume.array.view(Counted))
    labels = np.zeros(volume.grid_shape, np.uint8)
    write_segmentation(tmp_path / "one.seg.nrrd", labels, volume, BOX)
    after_one = Counted.read
    write_labelmap(tmp_path / "two.nii.gz", labels, volume)
    write_labelmap(tmp_path / "three.nrrd", labels, volume)
    assert Counted.read == after_one > 0
    assert images_made_of(tmp_path / "three.nrrd") == {image_identity(_volume())}


def test_a_segmentation_used_with_another_image_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, volume in (("one", _volume()), ("other", _volume(2))):
        nibabel.save(
            nibabel.Nifti1Image(volume.array.T, volume.affine), tmp_path / f"{name}.nii.gz"
        )
    one = read_volume(tmp_path / "one.nii.gz")
    write_segmentation(tmp_path / "one.seg.nrrd", (one.array > 900).astype(np.uint8), one, BOX)
    read_support_case(tmp_path / "one.nii.gz", tmp_path / "one.seg.nrrd")
    assert not caplog.records
    read_support_case(tmp_path / "other.nii.gz", tmp_path / "one.seg.nrrd")
    assert "was made of another image" in caplog.text


def test_what_slicer_keeps_of_it_is_a_tag_of_each_segment(tmp_path: Path) -> None:
    volume, path = _volume(), tmp_path / "result.seg.nrrd"
    write_segmentation(path, (volume.array > 900).astype(np.uint8), volume, BOX)
    head = path.read_bytes().partition(b"\n\n")[0].decode()
    tags = [line for line in head.splitlines() if "_Tags:=" in line]
    assert len(tags) == 2
    assert all(f"{IDENTITY_TAG}:{image_identity(volume)}|" in line for line in tags)
