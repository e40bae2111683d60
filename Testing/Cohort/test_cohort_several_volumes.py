"""Cohorts whose cases are several co-registered volumes each, as `oflsam2 cohort` runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import Toy, ball, write_image

from OFLSAM2Core.cohort.manifest import read_manifest
from OFLSAM2Core.learned_task import LearnedTask


def halves(folder: Path, name: str, ends: tuple[str, str], seed: int) -> tuple[Path, Path]:
    """Two volumes of one patient, each of which shows one half of a bright ball."""
    first, second = ball(radius=5, seed=seed), ball(radius=5, seed=seed + 100)
    second[:8], first[8:] = 0, 0
    return (
        write_image(folder / f"{name}{ends[0]}.nii.gz", first * 2),
        write_image(folder / f"{name}{ends[1]}.nii.gz", second * 2),
    )


@pytest.fixture
def support(toy: Toy, tmp_path: Path) -> list[object]:
    """Words for a task of two volumes."""
    t1, t2 = halves(tmp_path / "support", "s", ("_t1", "_t2"), seed=1)
    labels = write_image(tmp_path / "support/s_labels.nii.gz", (ball(radius=5) > 100).astype("u1"))
    return ["--support", f"{t1}+{t2}={labels}", "--method", "cohort-toy"]


@pytest.fixture
def channels(tmp_path: Path) -> Path:
    """As nnU-Net names them."""
    for number in (1, 2):
        halves(tmp_path / "imagesTs", f"p{number}", ("_0000", "_0001"), seed=10 * number)
    return tmp_path / "imagesTs"


def test_nnu_net_s_channels_are_segmented_as_one_case_each_with_hashes_of_both(
    toy: Toy, support: list[object], channels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = toy.here(channels, *support, "--out", out)
    assert done.returncode == 0, done.stderr
    assert LearnedTask.load(out / "task.oflsam2").volume_count == 2
    cases = read_manifest(out).cases
    assert set(cases) == {"p1", "p2"}
    for case in cases.values():
        assert case.state == "done"
        assert case.details["input"]["files"] == 2
        assert [Path(source).name for source in case.sources] == [
            *(f"{case.name}_0000.nii.gz", f"{case.name}_0001.nii.gz")
        ]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "p1.seg.nrrd")))
    assert np.count_nonzero(labels[:8]) > 150 and np.count_nonzero(labels[8:]) > 150


def test_a_second_volume_that_has_changed_is_segmented_again_and_nothing_else(
    toy: Toy, support: list[object], channels: Path, tmp_path: Path
) -> None:
    words = [channels, *support, "--out", tmp_path / "out"]
    assert toy.here(*words).returncode == 0
    toy.log.unlink()
    write_image(channels / "p2_0001.nii.gz", ball(radius=7) * 2)
    assert toy.here(*words, "--resume").returncode == 0
    assert toy.begun() == {"p2_0000": 1}


def test_the_report_names_both_volumes(
    toy: Toy, support: list[object], channels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert toy.here(channels, *support, "--out", out).returncode == 0
    assert f"{channels / 'p1_0000.nii.gz'} + {channels / 'p1_0001.nii.gz'}" in (
        (out / "report.html").read_text()
    )


def test_a_bids_result_names_all_its_sources(
    toy: Toy, support: list[object], channels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert toy.here(channels, *support, "--out", out, "--layout", "bids").returncode == 0
    (sidecar,) = (out / "sub-p1").rglob("*.json")
    assert '"p1_0000.nii.gz"' in sidecar.read_text() and '"p1_0001.nii.gz"' in sidecar.read_text()


def test_a_task_of_two_volumes_refuses_cases_of_one_before_it_is_learned(
    toy: Toy, support: list[object], channels: Path, tmp_path: Path
) -> None:
    refused = toy.here(channels / "*_0000.*", *support, "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert "'p1' is one volume; the task is learned from cases of 2" in refused.stderr
    assert "IMAGE+IMAGE2" in refused.stderr
    assert toy.begun() == {}
    assert toy.here(channels, *support, "--out", tmp_path / "out").returncode == 0


def test_a_task_of_one_volume_refuses_cases_of_two_and_says_what_to_name(
    toy: Toy, channels: Path, tmp_path: Path
) -> None:
    refused = toy.cohort_here(channels, tmp_path / "out")
    assert refused.returncode == 2
    assert "'p1' is 2 co-registered volumes" in refused.stderr
    assert str(channels / "p1_0000.nii.gz") in refused.stderr
    assert toy.begun() == {}


def test_one_case_that_lacks_its_second_volume_fails_alone_with_the_reason(
    toy: Toy, support: list[object], channels: Path, tmp_path: Path
) -> None:
    (channels / "p2_0001.nii.gz").unlink()
    done = toy.here(channels, *support, "--out", tmp_path / "out")
    assert done.returncode == 3
    cases = read_manifest(tmp_path / "out").cases
    assert cases["p1"].state == "done" and cases["p2"].state == "failed"
    assert "'p2_0000' is one volume, and each case of the learned task is 2" in cases["p2"].reason
