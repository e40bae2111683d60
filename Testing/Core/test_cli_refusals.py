"""What the command line refuses, and in what words; and that nothing is lost by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import ROOT, WITHOUT_BACKBONE, image, labels, refused, run, succeed, support


@pytest.fixture(scope="module")
def task(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of a method without a backbone: what is refused is the same for all methods."""
    path = tmp_path_factory.mktemp("task") / "hippocampus.oflsam2"
    succeed("learn", *support(cases, "001", "003"), "--out", path, *WITHOUT_BACKBONE)
    return path


# Bad input


def write(path: Path, array: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def test_a_volume_that_is_not_there_is_named(task, tmp_path):
    refused(
        run("segment", tmp_path / "no.nii.gz", "--task", task, "--out", tmp_path / "o.seg.nrrd"),
        "no.nii.gz",
    )


def test_a_volume_with_nan_voxels_is_named(task, tmp_path):
    bad = write(tmp_path / "nan.nii.gz", np.full((4, 8, 8), np.nan, np.float32))
    refused(
        run("segment", bad, "--task", task, "--out", tmp_path / "o.seg.nrrd"), "nan.nii.gz", "NaN"
    )


def test_a_dicom_segmentation_of_an_image_that_is_no_dicom_is_refused_before_the_work(
    cases, task, tmp_path
):
    """Before the task is read: it takes a second."""
    refused(
        run(
            *("segment", image(cases, "006"), "--task", task, "--out", tmp_path / "o.seg.nrrd"),
            *("--dicom-seg", tmp_path / "o.dcm"),
        ),
        "refers to the slices of a DICOM image",
    )
    assert list(tmp_path.iterdir()) == []


def test_volumes_without_labels_are_refused_where_they_would_not_be_used(cases, task, tmp_path):
    out = tmp_path / "task.oflsam2"
    given = (*support(cases, "001", "003"), "--unlabelled", image(cases, "006"))
    words = ("learn", *given, "--out", out)
    refused(run(*words, *WITHOUT_BACKBONE), "'atlas' does not learn from volumes without labels")
    refused(run(*words, "--task", task, *WITHOUT_BACKBONE), "Leave out --unlabelled")
    assert not out.exists()


def test_a_truncated_task_is_named(cases, task, tmp_path):
    cut = tmp_path / "cut.oflsam2"
    cut.write_bytes(task.read_bytes()[:2000])
    out = tmp_path / "o.seg.nrrd"
    refused(run("segment", image(cases, "006"), "--task", cut, "--out", out), "cut.oflsam2")
    assert not out.exists()


def test_labels_of_another_grid_are_named(cases, tmp_path):
    coarse = sitk.ReadImage(str(labels(cases, "001")))
    coarse.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(coarse, str(tmp_path / "coarse.nii.gz"))
    wrong = f"{image(cases, '001')}={tmp_path / 'coarse.nii.gz'}"
    refused(
        run("learn", "--support", wrong, "--out", tmp_path / "t.oflsam2"),
        "hippocampus_001",
        "coarse.nii.gz",
    )


def test_empty_labels_are_named(cases, tmp_path):
    reference = sitk.ReadImage(str(image(cases, "001")))
    empty = sitk.Cast(reference * 0, sitk.sitkUInt8)
    sitk.WriteImage(empty, str(tmp_path / "empty.nii.gz"))
    pair = f"{image(cases, '001')}={tmp_path / 'empty.nii.gz'}"
    refused(run("learn", "--support", pair, "--out", tmp_path / "t.oflsam2"), "empty.nii.gz")


def test_values_that_the_label_table_lacks_are_named(cases, tmp_path):
    (tmp_path / "labels.json").write_text('{"1": "anterior"}')
    pair = f"{image(cases, '001')}={labels(cases, '001')}"
    refused(
        run(
            "learn", "--support", pair, "--labels", tmp_path / "labels.json",
            "--out", tmp_path / "t.oflsam2",
        ),
        "labels.json", "2",
    )  # fmt: skip


def test_support_that_is_no_pair_is_named(tmp_path):
    refused(run("learn", "--support", "a.nii.gz", "--out", tmp_path / "t.oflsam2"), "a.nii.gz")


def test_cuda_that_is_not_there_is_reported(cases, tmp_path):
    import torch

    device = f"cuda:{torch.cuda.device_count()}"
    refused(
        run("learn", *support(cases, "001"), "--device", device, "--out", tmp_path / "t.oflsam2"),
        device,
    )


def test_weights_of_another_kind_are_named(cases, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    refused(
        run(
            "learn", *support(cases, "001"), "--weights", tmp_path / "weights.pth",
            "--out", tmp_path / "t.oflsam2",
        ),
        "weights.pth",
    )  # fmt: skip


@pytest.mark.parametrize(
    "words, named",
    [
        (["--backbone", "sam9"], "sam9"),
        (["--method", "magic"], "magic"),
        (["--preset", "slow"], "slow"),
        (["--set", "magnification=70"], "magnification"),
        (["--set", "colour=red"], "colour"),
        (["--set", "magnification"], "magnification"),
        (["--set", "slicing_axis=diagonal"], "diagonal"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_options_that_there_are_not_are_named(cases, tmp_path, words, named):
    out = tmp_path / "t.oflsam2"
    refused(run("learn", *support(cases, "001"), "--out", out, *words), named)
    assert list(tmp_path.iterdir()) == []


def test_a_current_folder_that_was_deleted_is_named_and_what_was_not_printed_too(tmp_path):
    program = f"'{sys.executable}' -m OFLSAM2Core methods"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for shell, message in (
        (f"mkdir gone; cd gone; rmdir ../gone; {program}", "current folder cannot be used"),
        (f"{program} > /dev/full", "disk is full"),
    ):
        done = subprocess.run(["sh", "-c", shell], cwd=tmp_path, env=environment, text=True,
                              capture_output=True)  # fmt: skip
        assert done.returncode == 2 and message in done.stderr
        assert len(done.stderr.splitlines()) == 2, done.stderr


def test_no_command_or_an_unknown_one_is_refused_in_words():
    refused(run("lern"), "lern", "learn")
    refused(run(), "COMMAND")


# Outputs


def test_outputs_are_checked_before_the_work_starts(cases, task, tmp_path):
    """Before anything is read: the error names the output, though the inputs are not there."""
    nothing = tmp_path / "nothing"
    words = ["segment", nothing / "image.nii.gz", "--task", nothing / "task.oflsam2", "--out"]
    refused(run(*words, tmp_path / "no" / "o.seg.nrrd"), f"'{tmp_path / 'no'}' does not exist")
    refused(run(*words, tmp_path / "o.nii.gz"), "o.nii.gz", ".seg.nrrd")
    pair = f"{nothing / 'image.nii.gz'}={nothing / 'labels.nii.gz'}"
    refused(run("learn", "--support", pair, "--out", tmp_path / "t.zip"), "t.zip", ".oflsam2")
    refused(run("evaluate", cases, "--out", tmp_path / "no" / "report"), "no")
    refused(run("demo", "--out", tmp_path / "no" / "demo"), "no")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_writable_is_named(task, tmp_path):
    if sys.platform == "linux":
        locked = Path("/proc")  # Not even root may write there.
    else:
        locked = tmp_path
        locked.chmod(0o500)
    words = ["segment", "image.nii.gz", "--task", task, "--out", locked / "o.seg.nrrd"]
    refused(run(*words), str(locked), "not writable")


def test_nothing_is_overwritten_without_the_word(cases, task, tmp_path):
    out, mine = tmp_path / "o.seg.nrrd", tmp_path / "mine.json"
    mine.write_text("mine")
    words = ["segment", image(cases, "006"), "--task", task, "--out", out, "--report", mine]
    refused(run(*words), "mine.json", "--overwrite")
    assert mine.read_text() == "mine" and not out.exists()
    for command in (
        ["learn", *support(cases, "001"), "--out", task],
        ["evaluate", cases, "--out", cases.parent],
    ):
        (cases.parent / "report.md").write_text("mine")
        refused(run(*command), "--overwrite")
    succeed(*words, "--overwrite")
    assert json.loads(mine.read_text())["complete"]


def test_an_input_is_never_an_output(cases, task, tmp_path):
    copy = tmp_path / "image.nii.gz"
    copy.write_bytes(image(cases, "006").read_bytes())
    before = copy.read_bytes()
    refused(
        run(
            "segment", copy, "--task", task, "--out", tmp_path / "o.seg.nrrd",
            "--labelmap", copy, "--overwrite",
        ),
        "image.nii.gz",
    )  # fmt: skip
    assert copy.read_bytes() == before


def test_what_a_learned_task_has_settled_is_not_ignored_without_a_word(cases, task, tmp_path):
    out = tmp_path / "o.seg.nrrd"
    words = ["segment", image(cases, "006"), "--task", task, "--out", out]
    for more, named in (
        (("--set", "slicing_axis=sagittal"), "slicing_axis"),
        (("--set", "intensity_window=0,100"), "intensity_window"),
        (("--allow-missing",), "--allow-missing"),
        (("--labels", tmp_path / "labels.json"), "--labels"),
        (("--preset", "fast"), "--preset fast"),
    ):
        refused(run(*words, *more), named, "learn the task again")
    assert not out.exists()


def test_a_case_is_added_with_the_options_that_the_task_was_learned_with(cases, task, tmp_path):
    out = tmp_path / "more.oflsam2"
    words = ["learn", *support(cases, "004"), "--task", task, "--out", out]
    for more in (("--preset", "fast"), ("--set", "slicing_axis=sagittal"), ("--allow-missing",)):
        refused(run(*words, *more), " ".join(more), "learn the task again")
    assert not out.exists()


def test_a_table_of_labels_that_is_not_there_is_named_as_an_image_is(cases, tmp_path):
    words = ["learn", *support(cases, "001"), "--out", tmp_path / "t.oflsam2"]
    refused(run(*words, "--labels", tmp_path / "no.json"), f"There is no file '{tmp_path}/no.json'")
    nothing = f"{tmp_path}/no.nii.gz"
    refused(
        run("learn", "--support", f"{nothing}={nothing}", "--out", tmp_path / "t.oflsam2"),
        f"There is no file '{nothing}'",
    )
