"""`oflsam2 cohort` as real processes: every case once, what fails is listed, resuming goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import Toy, ball, write_cases, write_image
from dicom_folders import write_series

from OFLSAM2Core.cohort.manifest import FILE_NAME, read_manifest

HERE = ["--workers", "0"]
posix = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def states(out: Path) -> dict[str, str]:
    return {name: record.state for name, record in read_manifest(out).cases.items()}


def wait_for(condition: object, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def outputs(out: Path) -> set[str]:
    return {path.name for path in out.glob("*.nrrd")}


@pytest.fixture(scope="module")
def mixed(toy_folder: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """One run over a done, a doubtful, an empty and three bad cases."""
    folder = tmp_path_factory.mktemp("mixed")
    toy_folder.environment["COHORT_TOY_LOG"] = str(folder / "begun.txt")
    cases = write_cases(folder / "in", "a", "bug1", "doubtful1", "empty1", "greedy1")
    (cases / "cut.nii.gz").write_bytes((cases / "a.nii.gz").read_bytes()[:500])
    return folder / "out", toy_folder.cohort(cases, folder / "out", *HERE)


def test_one_bad_case_stops_nothing_and_is_told_by_its_reason(mixed: tuple) -> None:
    out, done = mixed
    assert done.returncode == 3, done.stderr
    assert states(out) == {
        **{"a": "done", "bug1": "failed", "cut": "failed"},
        **{"doubtful1": "doubtful", "empty1": "empty", "greedy1": "failed"},
    }
    said = done.stdout
    assert "6 cases: 1 done, 1 empty, 1 doubtful, 3 failed" in said
    assert "empty1: Nothing was found." in said and "not enough memory" in said
    assert "cut.nii.gz' cannot be read" in said and "Traceback" not in said + done.stderr


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
    told = toy_folder.run("cohort", "status", out)
    assert told.returncode == 0 and "3 failed" in told.stdout and "bug1:" in told.stdout
    (out / "report.html").unlink()
    assert toy_folder.run("cohort", "report", out).returncode == 0
    assert "doubtful1" in (out / "report.html").read_text()
    assert toy_folder.run("cohort", "status", out.parent).returncode == 2


def test_resuming_does_again_what_failed_or_changed_or_is_gone_and_nothing_else(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "a", "b", "c", "touched", "bug1")
    out = tmp_path / "out"
    assert toy.cohort(cases, out, *HERE).returncode == 3
    write_image(cases / "b.nii.gz", ball(radius=6))
    os.utime(cases / "touched.nii.gz")
    (out / "c.seg.nrrd").unlink()
    write_cases(cases, "new")
    os.rename(cases / "bug1.nii.gz", cases / "kept.nii.gz")
    (cases / "bug1.nii.gz").write_bytes((cases / "a.nii.gz").read_bytes())
    toy.log.unlink()
    done = toy.cohort(cases, out, *HERE, "--resume")
    assert done.returncode == 3  # "bug1" fails by its name.
    assert toy.begun() == {"b": 1, "c": 1, "new": 1, "kept": 1, "bug1": 1}
    assert read_manifest(out).cases["b"].details["structures"][0]["voxels"] > 800
    toy.log.unlink()
    (cases / "bug1.nii.gz").unlink()
    toy.cohort(cases, out, *HERE, "--resume")
    assert toy.begun() == {}


def test_all_done_is_exit_code_0(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a", "b")
    assert toy.cohort(cases, tmp_path / "out", *HERE, "--limit", 1).returncode == 0
    assert states(tmp_path / "out") == {"a": "done"}
    assert toy.cohort(cases, tmp_path / "out", *HERE, "--resume").returncode == 0
    assert toy.begun() == {"a": 1, "b": 1}


def test_support_is_learned_from_once_and_other_support_is_another_task(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "a")
    words = ["cohort", cases, *toy.support, "--out", tmp_path / "out", *HERE]
    assert toy.run(*words).returncode == 0
    assert toy.run(*words, "--resume").returncode == 0
    assert toy.begun() == {"learn": 1, "a": 1}
    other = toy.run(*words, "--resume", "--set", "threshold=0.3")
    assert other.returncode == 2 and "another support" in other.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume", "--set", "threshold=0.7"], "another options"),
        (["--resume", "--layout", "bids"], "another layout"),
        ([], "holds a cohort already"),
    ],
)
def test_a_folder_of_other_results_is_refused(
    mixed: tuple, toy_folder: Toy, words: list[str], said: str
) -> None:
    out, _ = mixed
    before = (out / FILE_NAME).read_bytes()
    refused = toy_folder.cohort(out.parent / "in", out, *HERE, *words)
    assert refused.returncode == 2 and said in refused.stderr, refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 2
    assert (out / FILE_NAME).read_bytes() == before


def test_a_folder_with_something_else_in_it_is_left_alone(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a")
    refused = toy.cohort(cases, cases, *HERE, "--resume")
    assert refused.returncode == 2 and "not empty" in refused.stderr
    assert [path.name for path in cases.iterdir()] == ["a.nii.gz"]


def test_a_damaged_manifest_is_kept_aside_and_only_what_it_lost_is_done_again(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", "a", "b", "c"), tmp_path / "out"
    toy.cohort(cases, out, *HERE)
    lines = (out / FILE_NAME).read_bytes().split(b"\n")
    lost = next(n for n, line in enumerate(lines) if b'"b"' in line and b'"done"' in line)
    lines[lost] = lines[lost][:40] + b"#" + lines[lost][41:]
    damaged = b"\n".join(lines)
    (out / FILE_NAME).write_bytes(damaged)
    toy.log.unlink()
    done = toy.cohort(cases, out, *HERE, "--resume")
    assert done.returncode == 0 and "damaged" in done.stdout
    assert toy.begun() == {"b": 1}
    assert (out / "manifest.damaged-1.jsonl").read_bytes() == damaged


def test_an_input_that_vanishes_meanwhile_fails_alone(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a", "slow_b", "z")
    out = tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *HERE) as process:
        wait_for(lambda: toy.begun()["slow_b"])
        (cases / "slow_b.nii.gz").unlink()
        (cases / "z.nii.gz").unlink()
        process.communicate(timeout=60)
    assert process.returncode == 3
    assert states(out) == {"a": "done", "slow_b": "failed", "z": "failed"}
    reasons = [read_manifest(out).cases[name].reason for name in ("slow_b", "z")]
    assert "changed or removed" in reasons[0] and "does not exist" in reasons[1]
    assert "slow_b.seg.nrrd" not in outputs(out)


def test_a_second_run_on_the_folder_is_refused_while_the_first_runs(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", "slow_a", "slow_b"), tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *HERE) as process:
        wait_for(lambda: toy.begun()["slow_a"])
        second = toy.cohort(cases, out, *HERE, "--resume")
        assert second.returncode == 2 and f"process {process.pid} on" in second.stderr
        told = toy.run("cohort", "status", out).stdout
        assert "Running:" in told
        assert process.wait(60) == 0
    assert toy.begun() == {"slow_a": 1, "slow_b": 1}


@posix
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on_where_it_stopped(
    toy: Toy, tmp_path: Path, ending: signal.Signals
) -> None:
    cases, out = write_cases(tmp_path / "in", "a", "slow_b", "z"), tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *HERE) as process:
        wait_for(lambda: toy.begun()["slow_b"])
        process.send_signal(ending)
        process.communicate(timeout=30)
    assert process.returncode == {2: 130, 15: 143, 9: -9}[ending]
    if ending != signal.SIGKILL:
        assert states(out) == {"a": "done", "slow_b": "waiting", "z": "waiting"}
        assert read_manifest(out).ended == "interrupted"
    assert "go on with --resume" in toy.run("cohort", "status", out).stdout
    assert toy.cohort(cases, out, *HERE, "--resume").returncode == 0
    assert toy.begun() == {"a": 1, "slow_b": 2, "z": 1}
    assert set(states(out).values()) == {"done"}
    assert not (out / ".unfinished").exists()


def test_a_disk_that_takes_no_more_fails_cases_and_resuming_does_them(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "small")
    write_image(cases / "large.nii.gz", ball(64, 20))
    out = tmp_path / "out"
    words = ["cohort", cases, "--task", toy.task, "--out", out, *HERE]
    limited = subprocess.run(
        ["prlimit", "--fsize=20000", "python3", "-m", "OFLSAM2Core", *map(str, words)],
        env={**toy.environment, "PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert limited.returncode == 3, limited.stderr
    assert states(out) == {"large": "failed", "small": "done"}
    assert "could not be written" in read_manifest(out).cases["large"].reason
    assert outputs(out) == {"small.seg.nrrd", "small_confidence.nrrd"}
    assert toy.run(*words, "--resume").returncode == 0
    assert toy.begun() == {"small": 1, "large": 2}


def test_dicom_series_and_frames_are_cases_like_others(toy: Toy, tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "study", "1.2.826.101", 1, slices=16)
    write_series(tmp_path / "in" / "study", "1.2.826.102", 2, slices=16)
    out = tmp_path / "out"
    assert toy.cohort(tmp_path / "in", out, *HERE, "--layout", "bids").returncode == 0
    assert states(out) == {"study_s1": "done", "study_s2": "done"}
    assert len(list(out.glob("sub-*/anat/*_dseg.nii.gz"))) == 2
    assert (out / "dataset_description.json").exists()


def test_what_is_missing_on_the_command_line_is_said_in_two_lines(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a")
    for words in (
        ["cohort", cases],
        ["cohort", cases, "--task", toy.task],
        ["cohort", cases, "--task", tmp_path / "none.oflsam2", "--out", tmp_path / "o1"],
        ["cohort", cases, "--task", toy.task, "--out", tmp_path / "deep" / "o2"],
        ["cohort", "report"],
        ["cohort", cases, "--task", toy.task, "--out", tmp_path / "o3", "--workers", "many"],
    ):
        refused = toy.run(*words)
        assert refused.returncode == 2, words
        assert len(refused.stderr.strip().splitlines()) <= 2, refused.stderr
