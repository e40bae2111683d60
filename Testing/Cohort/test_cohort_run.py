"""`oflsam2 cohort` as real processes: every case once, what fails is listed, resuming goes on."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import Ended, Toy, ball, no_file_larger_than, write_cases, write_image
from dicom_folders import write_series

from OFLSAM2Core import __version__
from OFLSAM2Core.cli import cohort as cohort_command
from OFLSAM2Core.cohort.identity import support_identity
from OFLSAM2Core.cohort.manifest import FILE_NAME, read_manifest
from OFLSAM2Core.learned_task import LearnedTask

HERE = ["--workers", "0"]
posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def states(out: Path) -> dict[str, str]:
    return {name: record.state for name, record in read_manifest(out).cases.items()}


def wait_for(condition: object, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def outputs(out: Path) -> set[str]:
    return {path.name for path in out.glob("*.nrrd")}


@pytest.fixture(scope="module")
def mixed(toy_folder: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """One run over a done, a doubtful, an empty and three bad cases."""
    folder = tmp_path_factory.mktemp("mixed")
    toy_folder.log = folder / "begun.txt"
    cases = write_cases(folder / "in", "a", "bug1", "doubtful1", "empty1", "greedy1")
    (cases / "cut.nii.gz").write_bytes((cases / "a.nii.gz").read_bytes()[:500])
    return folder / "out", toy_folder.cohort_here(cases, folder / "out")


def test_one_bad_case_stops_nothing_and_is_listed_with_its_reason(mixed: tuple) -> None:
    out, done = mixed
    assert done.returncode == 3, done.stderr
    assert states(out) == {
        **{"a": "done", "bug1": "failed", "cut": "failed"},
        **{"doubtful1": "doubtful", "empty1": "empty", "greedy1": "failed"},
    }
    printed = done.stdout
    assert "6 cases: 1 done, 1 empty, 1 doubtful, 3 failed" in printed
    assert "empty1: Nothing was found." in printed and "not enough memory" in printed
    assert "cut.nii.gz' cannot be read" in printed and "Traceback" not in printed + done.stderr


def test_files_that_are_missing_or_damaged_fail_before_anything_is_learned_and_the_others_go_on(
    toy: Toy, tmp_path: Path
) -> None:
    folder = write_cases(tmp_path / "in", "a", "b")
    (tmp_path / "empty").mkdir()
    (folder / "cut.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:500])
    (folder / "list.csv").write_text("image\na.nii.gz\nnot_there.nii.gz\ncut.nii.gz\n")
    out = tmp_path / "out"
    inputs = [folder / "list.csv", folder / "b.nii.gz", folder / "typo.nii.gz", tmp_path / "empty"]
    done = toy.run("cohort", *inputs, *toy.support, "--out", out, "--workers", "0")
    assert done.returncode == 3, done.stderr
    ended = {"a": "done", "b": "done", "cut": "failed", "not_there": "failed", "typo": "failed"}
    assert states(out) == {**ended, "empty": "failed"}
    printed = done.stdout + done.stderr
    for name in ("not_there", "cut", "typo", "empty"):
        assert -1 < printed.find(f"{name}") < printed.index("Learned"), printed
    assert "6 cases: 2 done, 4 failed" in printed
    assert set(toy.begun()) <= {"a", "b", "learn"}  # The others were not even begun.

    none = toy.cohort_here(folder / "typo.nii.gz", tmp_path / "out2")
    assert none.returncode == 2 and "typo.nii.gz" in none.stderr
    (folder / "gone.csv").write_text("image\nx.nii.gz\ny.nii.gz\n")
    none = toy.cohort_here(folder / "gone.csv", tmp_path / "out2")
    assert none.returncode == 2 and "None of 2 cases can be segmented" in none.stderr
    one = toy.cohort_here(folder / "a.nii.gz", tmp_path / "out2")
    assert one.returncode == 0 and "1 case: 1 done" in one.stdout


def test_a_structure_of_another_size_than_in_the_support_makes_a_case_doubtful(
    toy: Toy, tmp_path: Path
) -> None:
    """A header in other units: voxels of 20 mm instead of 2."""
    folder = write_cases(tmp_path / "in", "a", "b")
    image = sitk.ReadImage(str(folder / "b.nii.gz"))
    image.SetSpacing([10 * mm for mm in image.GetSpacing()])
    sitk.WriteImage(image, str(folder / "b.nii.gz"))
    done = toy.cohort_here(folder, tmp_path / "out")
    assert states(tmp_path / "out") == {"a": "done", "b": "doubtful"}
    ml = read_manifest(tmp_path / "out").cases["b"].details["structures"][0]["ml"]
    assert f"doubtful: {ml:.3g} ml was found" in done.stdout and "in the support" in done.stdout


def test_only_cases_with_a_result_have_outputs_and_these_are_right(mixed: tuple) -> None:
    out, _ = mixed
    assert outputs(out) == {
        f"{name}{end}"
        for name in ("a", "doubtful1", "empty1")
        for end in (".seg.nrrd", "_confidence.nrrd")
    }
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "a.seg.nrrd")))
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(out.parent / "in" / "a.nii.gz")))
    np.testing.assert_array_equal(labels > 0, image > 100)
    assert not (out / ".unfinished").exists() and not (out / ".run").exists()


def test_the_manifest_tells_what_each_result_was_made_with(mixed: tuple) -> None:
    out, _ = mixed
    details = read_manifest(out).cases["a"].details
    ml = details["structures"][0]["ml"]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "a.seg.nrrd")))
    assert ml == pytest.approx(np.count_nonzero(labels) * 8 / 1000)
    assert details["confidence"] == pytest.approx(0.9)
    assert details["seconds"] > 0 and details["peak_memory_mb"] > 50
    assert set(details["software"]) >= {"oflsam2", "torch", "python"}
    assert len(details["input"]["sha256"]) == 64
    assert details["outputs"]["a.seg.nrrd"] == (out / "a.seg.nrrd").stat().st_size
    assert len(read_manifest(out).identity["task"]) == 64


def test_status_and_report_are_had_from_the_folder_alone(mixed: tuple, toy_folder: Toy) -> None:
    out, _ = mixed
    told = toy_folder.here("status", out)
    assert told.returncode == 0 and "3 failed" in told.stdout and "bug1:" in told.stdout
    (out / "report.html").unlink()
    assert toy_folder.here("report", out).returncode == 0
    assert "doubtful1" in (out / "report.html").read_text()
    assert toy_folder.here("status", out.parent).returncode == 2


def test_resuming_does_again_what_failed_or_changed_or_is_gone_and_nothing_else(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "a", "b", "c", "touched", "bug1")
    out = tmp_path / "out"
    assert toy.cohort_here(cases, out).returncode == 3
    write_image(cases / "b.nii.gz", ball(radius=6))
    os.utime(cases / "touched.nii.gz")
    (out / "c.seg.nrrd").unlink()
    write_cases(cases, "new")
    os.rename(cases / "bug1.nii.gz", cases / "kept.nii.gz")
    (cases / "bug1.nii.gz").write_bytes((cases / "a.nii.gz").read_bytes())
    toy.log.unlink()
    done = toy.cohort_here(cases, out, "--resume")
    assert done.returncode == 3  # "bug1" fails by its name.
    assert toy.begun() == {"b": 1, "c": 1, "new": 1, "kept": 1, "bug1": 1}
    assert read_manifest(out).cases["b"].details["structures"][0]["voxels"] > 800
    toy.log.unlink()
    (cases / "bug1.nii.gz").unlink()
    toy.cohort_here(cases, out, "--resume")
    assert toy.begun() == {}


def test_all_done_is_exit_code_0(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a", "b")
    assert toy.cohort_here(cases, tmp_path / "out", "--limit", 1).returncode == 0
    assert states(tmp_path / "out") == {"a": "done"}
    assert toy.cohort_here(cases, tmp_path / "out", "--resume").returncode == 0
    assert toy.begun() == {"a": 1, "b": 1}


def test_support_is_learned_from_once_and_other_support_is_another_task(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "a")
    words = [cases, *toy.support, "--out", tmp_path / "out"]
    assert toy.here(*words).returncode == 0
    assert toy.here(*words, "--resume").returncode == 0
    assert toy.begun() == {"learn": 1, "a": 1}
    other = toy.here(*words, "--resume", "--set", "threshold=0.3")
    assert other.returncode == 2 and "another support" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "--set", "threshold=0.7"], "another options (threshold 0.5, not 0.7)"),
        (["--resume", "--layout", "bids"], "another layout (flat, not bids)"),
        (["--resume", "--seed", "7"], "another seed (0, not 7)"),
        (["--resume", "--doubtful-below", "0.9"], "another bound of doubt (0.7, not 0.9)"),
        ([], "holds a cohort already"),
    ],
)
def test_a_folder_of_other_results_is_refused(
    mixed: tuple, toy_folder: Toy, words: list[str], message: str
) -> None:
    out, _ = mixed
    before = (out / FILE_NAME).read_bytes()
    refused = toy_folder.cohort_here(out.parent / "in", out, *words)
    assert refused.returncode == 2 and message in refused.stderr, refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 2
    assert (out / FILE_NAME).read_bytes() == before


def test_results_of_another_version_are_not_mixed_in(
    mixed: tuple, toy_folder: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = mixed
    monkeypatch.setattr(cohort_command, "__version__", "99.0")
    refused = toy_folder.cohort_here(out.parent / "in", out, "--resume")
    assert refused.returncode == 2
    assert f"another version of oflsam2 ({__version__}, not 99.0)" in refused.stderr


def test_results_of_another_precision_are_not_mixed_in(toy: Toy, tmp_path: Path) -> None:
    """A task with a backbone; methods without one have a single precision."""
    cases, out = write_cases(tmp_path / "in", "a"), tmp_path / "out"
    with toy.installed():
        plain = LearnedTask.load(toy.task)
    task = replace(plain, backbone="litemedsam", backbone_precision="bfloat16")
    task.save(tmp_path / "precise.oflsam2")
    words = [cases, "--task", tmp_path / "precise.oflsam2", "--out", out, "--weights", cases]

    def printed(*more: object) -> str:
        ended = toy.here(*words, *more)
        assert ended.returncode == 2  # The toy method has no backbone.
        return ended.stderr

    assert "without a backbone" in printed("--precision", "float32")
    refused = printed("--resume", "--precision", "bfloat16")
    assert "another precision (float32, not bfloat16)" in refused
    assert "another precision (float32, not bfloat16)" in printed("--resume")  # As it was learned.
    assert "without a backbone" in printed("--resume", "--precision", "float32")


def test_a_method_without_backbone_has_one_precision(mixed: tuple, toy_folder: Toy) -> None:
    out, _ = mixed
    done = toy_folder.cohort_here(out.parent / "in", out, "--resume", "--precision", "bfloat16")
    assert done.returncode == 3, done.stderr


def test_support_with_other_weights_is_another_support(tmp_path: Path) -> None:
    """By what the weights file holds, not by its name."""
    image, labels, one, other = (tmp_path / name for name in ("image", "labels", "one", "other"))
    for number, path in enumerate((image, labels, one)):
        path.write_bytes(bytes([number]) * 100)
    other.write_bytes(one.read_bytes())
    made_with = [
        support_identity([(image, labels)], None, weights, {"seed": seed})
        for weights, seed in ((one, 0), (other, 0), (image, 0), (None, 0), (one, 1))
    ]
    assert made_with[0] == made_with[1] and len(set(made_with)) == 4


def test_a_folder_with_something_else_in_it_is_left_alone(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a")
    refused = toy.cohort_here(cases, cases, "--resume")
    assert refused.returncode == 2 and "not empty" in refused.stderr
    assert [path.name for path in cases.iterdir()] == ["a.nii.gz"]


def test_a_task_that_is_not_there_leaves_no_folder(toy: Toy, tmp_path: Path) -> None:
    cases, out = write_cases(tmp_path / "in", "a"), tmp_path / "out"
    refused = toy.run("cohort", cases, "--task", tmp_path / "no.oflsam2", "--out", out)
    assert refused.returncode == 2 and "no.oflsam2" in refused.stderr and not out.exists()


def test_a_damaged_manifest_is_kept_aside_and_only_what_it_lost_is_done_again(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", "a", "b", "c"), tmp_path / "out"
    toy.cohort_here(cases, out)
    lines = (out / FILE_NAME).read_bytes().split(b"\n")
    lost = next(n for n, line in enumerate(lines) if b'"b"' in line and b'"done"' in line)
    lines[lost] = lines[lost][:40] + b"#" + lines[lost][41:]
    damaged = b"\n".join(lines)
    (out / FILE_NAME).write_bytes(damaged)
    toy.log.unlink()
    done = toy.cohort_here(cases, out, "--resume")
    assert done.returncode == 0 and "damaged" in done.stdout
    assert toy.begun() == {"b": 1}
    assert (out / "manifest.damaged-1.jsonl").read_bytes() == damaged


def test_an_input_that_vanishes_meanwhile_fails_alone(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a", "held_b", "z")
    out = tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *HERE) as process:
        wait_for(lambda: toy.begun()["held_b"])
        (cases / "held_b.nii.gz").unlink()
        (cases / "z.nii.gz").unlink()
        toy.release()
        process.communicate(timeout=120)
    assert process.returncode == 3
    assert states(out) == {"a": "done", "held_b": "failed", "z": "failed"}
    reasons = [read_manifest(out).cases[name].reason for name in ("held_b", "z")]
    assert "changed or removed" in reasons[0] and "does not exist" in reasons[1]
    assert "held_b.seg.nrrd" not in outputs(out)


def test_a_second_run_on_the_folder_is_refused_while_the_first_runs(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", "held_a", "held_b"), tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *HERE) as process:
        wait_for(lambda: toy.begun()["held_a"])
        second = toy.cohort(cases, out, *HERE, "--resume")
        assert second.returncode == 2 and f"process {process.pid} on" in second.stderr
        told = toy.here("status", out).stdout
        assert "Running:" in told
        toy.release()
        assert process.wait(120) == 0
    assert toy.begun() == {"held_a": 1, "held_b": 1}


@posix
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on_where_it_stopped(
    toy: Toy, tmp_path: Path, ending: signal.Signals
) -> None:
    cases, out = write_cases(tmp_path / "in", "a", "held_b", "z"), tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *HERE) as process:
        wait_for(lambda: toy.begun()["held_b"])
        process.send_signal(ending)
        process.communicate(timeout=120)
    assert process.returncode == {2: 130, 15: 143, 9: -9}[ending]
    if ending != signal.SIGKILL:
        assert states(out) == {"a": "done", "held_b": "waiting", "z": "waiting"}
        assert read_manifest(out).ended == "interrupted"
    assert "go on with --resume" in toy.here("status", out).stdout
    toy.release()
    assert toy.cohort_here(cases, out, "--resume").returncode == 0
    assert toy.begun() == {"a": 1, "held_b": 2, "z": 1}
    assert set(states(out).values()) == {"done"}
    assert not (out / ".unfinished").exists()


@posix
def test_a_disk_that_takes_no_more_fails_cases_and_resuming_does_them(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "small")
    noise = np.random.default_rng(0).integers(-300, 300, (48, 48, 48))
    write_image(cases / "large.nii.gz", noise.astype(np.int16))
    out = tmp_path / "out"
    with no_file_larger_than(15_000):
        limited = toy.cohort_here(cases, out)
    assert limited.returncode == 3, limited.stderr
    assert states(out) == {"large": "failed", "small": "done"}
    assert "could not be written" in read_manifest(out).cases["large"].reason
    assert "No report" in limited.stdout
    assert outputs(out) == {"small.seg.nrrd", "small_confidence.nrrd"}
    assert toy.cohort_here(cases, out, "--resume").returncode == 0
    assert toy.begun() == {"small": 1, "large": 2}


@posix
def test_a_manifest_that_cannot_be_written_on_ends_the_run_and_keeps_what_it_says(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", *"abcdefgh"), tmp_path / "out"
    assert toy.cohort_here(cases, out, "--limit", 2).returncode == 0
    size = (out / FILE_NAME).stat().st_size
    # Room for the events with which the run begins, and not for those of all its cases.
    with no_file_larger_than(2 * size):
        limited = toy.cohort_here(cases, out, "--resume")
    assert limited.returncode == 2 and "manifest" in limited.stderr, limited
    assert not read_manifest(out).damaged and not read_manifest(out).torn
    assert toy.cohort_here(cases, out, "--resume").returncode == 0
    assert set(states(out).values()) == {"done"} and len(states(out)) == 8
    assert all(record.times_segmented == 1 for record in read_manifest(out).cases.values())
    assert (toy.begun()["a"], toy.begun()["h"]) == (1, 1)


def test_dicom_series_and_frames_are_cases_like_others(toy: Toy, tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "study", "1.2.826.101", 1, slices=16)
    write_series(tmp_path / "in" / "study", "1.2.826.102", 2, slices=16)
    out = tmp_path / "out"
    assert toy.cohort_here(tmp_path / "in", out, "--layout", "bids").returncode == 0
    assert states(out) == {"study_s1": "done", "study_s2": "done"}
    assert len(list(out.glob("sub-*/anat/*_dseg.nii.gz"))) == 2
    assert (out / "dataset_description.json").exists()


@pytest.mark.parametrize(("layout", "seg"), [("flat", "study_s1.dcm"), ("bids", "*/*/*_dseg.dcm")])
def test_a_dicom_seg_of_what_came_as_dicom_is_read_back_by_another_reader(
    toy: Toy, tmp_path: Path, layout: str, seg: str
) -> None:
    write_series(tmp_path / "in" / "study", "1.2.826.101", 1, slices=16)
    write_series(tmp_path / "in" / "study", "1.2.826.102", 2, slices=16)
    write_cases(tmp_path / "in", "nifti")
    out = tmp_path / "out"
    done = toy.cohort_here(tmp_path / "in", out, "--dicom-seg", "--layout", layout)
    assert done.returncode == 0, done
    files = sorted(out.glob(seg.replace("study_s1", "*")))
    assert len(files) == 2
    read = highdicom.seg.segread(files[0])
    assert list(read.segment_numbers) == [1]
    uids = read.get_source_image_uids()
    assert {series for _, series, _ in uids} <= {"1.2.826.101", "1.2.826.102"}
    instances = [f"{uids[0][1]}.{number}" for number in range(1, 17)]
    pixels = read.get_pixels_by_source_instance(
        instances, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels > 0, ball() > 100)
    assert "dicom" not in str(read_manifest(out).cases["nifti"].details["outputs"])


def test_what_is_missing_on_the_command_line_is_named(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a")
    for words, message in (
        ([cases], "--out"),
        ([cases, "--task", toy.task], "--out"),
        ([cases, "--task", tmp_path / "none.oflsam2", "--out", tmp_path / "o1"], "none.oflsam2"),
        ([cases, "--task", toy.task, "--out", tmp_path / "deep" / "o2"], "deep"),
        (["report"], "takes one folder"),
    ):
        refused = toy.here(*words)
        assert refused.returncode == 2 and message in refused.stderr, words
