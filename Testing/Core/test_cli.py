"""The command line as a user meets it: the main job, Ctrl-C, the small commands."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import (
    NAMES,
    QUICK,
    ROOT,
    WITHOUT_BACKBONE,
    image,
    labels,
    run,
    start,
    succeed,
    support,
)
from PIL import Image

from OFLSAM2Core.cli.main import COMMANDS
from OFLSAM2Core.cli.progress import ProgressBars
from OFLSAM2Core.cli.terminal_log import TerminalLog
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.io.reading import read_segmentation, read_volume
from OFLSAM2Core.learned_task import LearnedTask

# The main job


def test_learn_saves_a_task_that_names_its_structures(task):
    learned = LearnedTask.load(task)
    assert [structure.name for structure in learned.structures] == NAMES
    assert learned.backbone == "litemedsam" and learned.method == "ofl-sam2-atlas"


@pytest.fixture(scope="module")
def segmented(
    cases: Path, task: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Path], str]:
    """All outputs of one run of `segment`, and what it printed."""
    folder = tmp_path_factory.mktemp("segmented")
    outputs = {
        "--out": folder / "out.seg.nrrd",
        "--labelmap": folder / "out.nii.gz",
        "--confidence": folder / "confidence.nii.gz",
        "--report": folder / "report.json",
        "--picture": folder / "sheet.png",
    }
    words = [word for pair in outputs.items() for word in pair]
    printed = succeed("segment", image(cases, "006"), "--task", task, *words, "--device", "cpu")
    assert set(folder.iterdir()) == set(outputs.values())
    return outputs, printed


def test_segment_writes_every_output_on_the_grid_of_the_volume(cases, segmented):
    outputs, printed = segmented
    volume = read_volume(image(cases, "006"))
    found, affine, structures = read_segmentation(outputs["--out"])
    assert found.shape == volume.array.shape
    assert np.allclose(affine, volume.affine, atol=1e-5)
    assert [structure.name for structure in structures] == NAMES
    assert set(np.unique(found)) <= {0, 1, 2}

    labelmap, confidence = (
        sitk.ReadImage(str(outputs[name])) for name in ("--labelmap", "--confidence")
    )
    assert np.array_equal(sitk.GetArrayFromImage(labelmap), found)
    reference = sitk.ReadImage(str(image(cases, "006")))
    for written in (labelmap, confidence):
        assert written.GetSize() == reference.GetSize()
        assert np.allclose(written.GetOrigin(), reference.GetOrigin(), atol=1e-5)
        assert np.allclose(written.GetDirection(), reference.GetDirection(), atol=1e-5)
    assert sitk.GetArrayFromImage(confidence).max() > 127

    report = json.loads(outputs["--report"].read_text())
    assert report["complete"] and len(report["slices"]) == 6
    voxel = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    for structure in report["structures"]:
        assert structure["milliliters"] == pytest.approx(
            np.count_nonzero(found == structure["label"]) * voxel, abs=1e-3
        )
    with Image.open(outputs["--picture"]) as picture:
        assert picture.size[0] > 500 and picture.size[1] > 300
    assert "6 slices" in printed and "voxels in doubt" in printed


@pytest.mark.slow
def test_straight_from_support_gives_the_same_labels_as_through_a_saved_task(
    cases, segmented, tmp_path
):
    straight = tmp_path / "straight.seg.nrrd"
    words = support(cases, "001", "003")
    succeed("segment", image(cases, "006"), *words, "--out", straight, *QUICK)
    through = segmented[0]["--out"]
    assert np.array_equal(read_segmentation(through)[0], read_segmentation(straight)[0])


def test_labels_without_names_are_numbered_with_a_word_on_how_to_name_them(cases, tmp_path):
    pair = ["--support", f"{image(cases, '001')}={labels(cases, '001')}"]
    hint = "called Structure 1, Structure 2. Name them with --labels"
    out = tmp_path / "out.seg.nrrd"
    for words in (
        ["learn", *pair, "--out", tmp_path / "task.oflsam2"],
        ["segment", image(cases, "006"), *pair, "--out", out],
        ["cohort", image(cases, "006"), *pair, "--out", tmp_path / "cohort", "--workers", 0],
    ):
        assert hint in succeed(*words, *WITHOUT_BACKBONE)
    words = ["segment", image(cases, "006"), *support(cases, "001"), "--out", out, "--overwrite"]
    assert "--labels" not in succeed(*words, *WITHOUT_BACKBONE)


def test_evaluate_writes_its_report_and_ends_with_the_mean_dice(cases, tmp_path):
    out = tmp_path / "report"
    printed = succeed(
        "evaluate", cases, "--out", out, "--supports", 2, "--cases", 1, *WITHOUT_BACKBONE
    )
    report = json.loads((out / "report.json").read_text())
    assert report["support"] == ["hippocampus_001", "hippocampus_003"]
    assert report["test"] == ["hippocampus_006"] and report["unit"] == "mm"
    mean = report["summary"]["mean_dice"]["mean"]
    assert printed.splitlines()[-1] == f"mean dice {mean:.4f} over 1 cases"
    (case,) = report["cases"]
    assert set(case["structures"]) == set(NAMES)
    for found in case["structures"].values():
        assert set(found) == {"dice", "hd95", "average_hausdorff", "assd", "status"}
    assert case["seconds_per_slice"] > 0 and case["peak_memory_mb"] > 100
    assert len(case["per_slice"]) == 6
    assert report["seconds_to_learn"] > 0
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "cases.png"}


def test_evaluate_counts_a_test_case_in_which_there_is_nothing_to_find(cases, tmp_path):
    folder = tmp_path / "cases"
    shutil.copytree(cases, folder)
    empty = sitk.ReadImage(str(labels(folder, "006"))) * 0
    sitk.WriteImage(empty, str(labels(folder, "006")))
    out = tmp_path / "report"
    succeed("evaluate", folder, "--out", out, "--supports", 1, *WITHOUT_BACKBONE)
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert found["complete"] and len(found["cases"]) == 2


def test_names_that_the_output_cannot_show_do_not_end_the_work(cases, tmp_path):
    folder = tmp_path / "cases"
    shutil.copytree(cases, folder)
    table = folder / "dataset.json"
    table.write_text(
        table.read_text(encoding="utf-8").replace("anterior", "\u5de6\u80be"), encoding="utf-8"
    )
    words = ["evaluate", folder, "--out", tmp_path / "report", "--supports", 1, "--cases", 1]
    done = run(*words, *WITHOUT_BACKBONE, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert "\\u5de6" in done.stdout


def test_evaluate_learns_from_support_with_a_missing_structure_only_when_allowed(cases, tmp_path):
    partial = shutil.copytree(cases, tmp_path / "partial")
    labels = partial / "hippocampus_003_label.nii.gz"
    whole = sitk.ReadImage(str(labels))
    sitk.WriteImage(whole * (whole != 2), str(labels))
    words = [
        "evaluate",
        partial,
        "--out",
        tmp_path / "r",
        "--supports",
        2,
        "--cases",
        1,
        *WITHOUT_BACKBONE,
    ]
    refused = run(*words)
    assert refused.returncode == 2
    assert NAMES[1] in refused.stderr and "hippocampus_003" in refused.stderr
    assert "over 1 cases" in succeed(*words, "--allow-missing")


def test_bench_prints_every_stage_and_the_pace(tmp_path):
    report = tmp_path / "bench.json"
    printed = succeed(
        "bench", "--size", "48x64", "--slices", 4, "--structures", 2, "--supports", 1, "--no-sam2",
        "--report", report, *QUICK,
    )  # fmt: skip
    for stage in ("locate", "encode", "predict", "fuse", "write"):
        assert re.search(rf"^{stage} +\d+\.\d+ +\d+\.\d+ +\d+%$", printed, re.M), printed
    assert "times as long as encoding alone" in printed
    assert "slices a second" in printed and "peak memory" in printed
    ours = json.loads(report.read_text())["ours"]
    assert ours["slices"] == 4
    # Stages are parts of the whole.
    parts = sum(ours["stages"].values()) - ours["stages"]["write"]
    assert 0.3 < parts / (ours["slices"] * ours["seconds_per_slice"]) <= 1.05


# Ctrl-C


class Terminal:
    """A program with a terminal of its own for stderr, as a user has it."""

    def __init__(self, *words: object, **environment: str) -> None:
        import fcntl
        import pty
        import termios

        self._ours, theirs = pty.openpty()
        # A new terminal has no columns, and a bar without columns is not drawn at all.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))
        self.process = start(*words, stderr=theirs, **environment)
        os.close(theirs)
        self._text = ""

    def wait_for(self, pattern: str, seconds: float = 300) -> re.Match[str]:
        """Read what is shown until `pattern` has come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self._ours], [], [], 0.1)[0]:
                self._text += os.read(self._ours, 4096).decode(errors="replace")
            if found := re.search(pattern, self._text):
                return found
        raise AssertionError(f"'{pattern}' did not come; what came: {self._text}")

    def press_ctrl_c(self) -> float:
        """Seconds until the program has ended, which must be with exit code 130."""
        self.process.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        assert self.process.wait(30) == 130
        return time.monotonic() - pressed


posix = pytest.mark.skipif(os.name != "posix", reason="needs a terminal and SIGINT for one process")


@posix
def test_ctrl_c_ends_soon_and_keeps_the_finished_slices(task, tmp_path):
    out, report = tmp_path / "out.seg.nrrd", tmp_path / "report.json"
    target = sample_data().folder / "hippocampus_007_image.nii.gz"
    terminal = Terminal("segment", target, "--task", task, "--out", out, "--report", report)
    terminal.wait_for(r"Segmenting: .* [3-9]/\d+ \[.*<")  # With the time left.
    assert terminal.press_ctrl_c() < 1.5  # One second, and some for a busy machine.
    assert terminal.process.stdout is not None
    printed = terminal.process.stdout.read().decode()
    done, total = map(int, re.findall(r"(\d+) of (\d+) slices were finished", printed)[0])
    assert 0 < done < total
    content = json.loads(report.read_text())
    assert not content["complete"] and len(content["slices"]) == done
    assert read_volume(target).array.shape == read_segmentation(out)[0].shape
    assert [path.name for path in tmp_path.glob(".*")] == []


@posix
def test_ctrl_c_while_learning_leaves_nothing_behind(cases, tmp_path):
    terminal = Terminal("learn", *support(cases, "001", "003"), "--out", tmp_path / "x.oflsam2")
    terminal.wait_for("Encoding")
    assert terminal.press_ctrl_c() < 1.5
    assert list(tmp_path.iterdir()) == []


# Warnings


@posix
def test_a_warning_is_a_sentence_at_the_terminal_and_dated_in_the_log(cases, tmp_path):
    terminal = Terminal(
        "learn",
        *support(cases, "001"),
        *("--out", tmp_path / "x.oflsam2"),
        OFLSAM2_LOG_DIR=str(tmp_path / "logs"),
    )
    terminal.wait_for(r"(?m)^Warning: Only one support case \('hippocampus_001_image'\): .*\.\r\n")
    terminal.press_ctrl_c()
    lines = (tmp_path / "logs" / "oflsam2.log").read_text().splitlines()
    (line,) = (each for each in lines if "WARNING" in each)
    assert re.match(r"20\d\d-.* WARNING .*: Only one support case", line)


def test_a_warning_is_written_above_the_progress_bar(capsys):
    bars = ProgressBars()
    for step in (1, 2):
        bars(Progress("learn", step, 10))
        time.sleep(0.6)  # A bar is shown after half a second.
    log = TerminalLog()
    log.handle(
        logging.makeLogRecord(
            {
                "name": "OFLSAM2Core.io",
                "levelname": "WARNING",
                "msg": "'%s' is odd.",
                "args": ("A",),
            }
        )
    )
    bars.close()
    shown = [line.rsplit("\r", 1)[-1] for line in capsys.readouterr().err.split("\n")]
    assert shown[0] == "Warning: 'A' is odd."


# Help, debug, and the small commands


def test_debug_shows_the_traceback_and_the_message(tmp_path):
    done = run("evaluate", tmp_path / "nothing", "--out", tmp_path / "report", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "is no folder" in done.stderr.splitlines()[-2]


def test_errors_are_in_the_log_file(tmp_path):
    run("evaluate", tmp_path / "nothing", "--out", tmp_path / "r", OFLSAM2_LOG_DIR=str(tmp_path))
    log = (tmp_path / "oflsam2.log").read_text()
    assert "evaluate failed" in log and "OFLSAM2Core/evaluation/datasets.py" in log


@pytest.mark.parametrize(
    "command, spellings",
    {
        "demo": "--out",
        "learn": "--support --out --labels --backbone --device",
        "segment": "--task --support --out --labelmap --confidence --report --picture",
        "evaluate": "--out --supports --support-cases --allow-missing --cases --method --backbone"
        " --seed --set",
        "compare": "--methods --out --supports --cases --minutes",
        "bench": "--backbone --device --size --structures",
        "backbones": "list fetch verify remove",
        "methods": "",
        "worker": "",
    }.items(),
)
def test_help_shows_the_spellings_that_other_programs_rely_on(command, spellings):
    assert command in COMMANDS
    printed = succeed(command, "--help")
    for spelling in spellings.split():
        assert re.search(rf"(?<![\w-]){spelling}\b", printed), spelling


def test_methods_lists_the_default_method():
    assert "ofl-sam2" in succeed("methods")


def test_backbones_are_listed_with_size_and_licence_and_removed(tmp_path):
    printed = succeed("backbones")
    assert "litemedsam" in printed and "Apache-2.0" in printed and "39 MB" in printed
    cache = tmp_path / "weights"
    cache.mkdir()
    (cache / "sam2.1_hiera_tiny.pt").write_bytes(b"x" * 1000)
    there = {"OFLSAM2_CACHE": str(tmp_path)}
    done = run("backbones", "verify", "sam2.1-tiny", **there)
    assert done.returncode == 2 and "SHA-256" in done.stderr
    succeed("backbones", "remove", "sam2.1-tiny", **there)
    assert list(cache.iterdir()) == []


def test_the_worker_command_speaks_the_protocol():
    from OFLSAM2Core.worker.client import WorkerClient

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client = WorkerClient([sys.executable, "-m", "OFLSAM2Core", "worker"], env=environment)
    client.start()
    try:
        ready = client.wait(client.hello(), timeout=60)
        assert ready.name == "ready" and ready.header["backbones"][0]["name"] == "litemedsam"
    finally:
        client.close(timeout_s=2)
