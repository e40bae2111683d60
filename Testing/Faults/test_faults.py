"""Disks that fail, memory that ends, streams that nobody reads: in words, and nothing is lost."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from fault import Ended, Fault
from programs import Programs, in_words
from quick_runs import METHOD, OUTPUTS, segment, support

from OFLSAM2Core.io.reading import read_segmentation, read_volume
from OFLSAM2Core.learned_task import LearnedTask

pytestmark = pytest.mark.slow

MB = 1_000_000
ENOUGH = 80
"""More files than a run opens for writing."""


def whole(folder: Path) -> None:
    """Every output of a run that says it went well is there, and they agree."""
    labels = read_segmentation(folder / OUTPUTS["--out"])[0]
    assert np.array_equal(labels, read_volume(folder / OUTPUTS["--labelmap"]).array)
    assert read_volume(folder / OUTPUTS["--confidence"]).array.min() > 0
    assert json.loads((folder / OUTPUTS["--report"]).read_text())["complete"]
    assert (folder / OUTPUTS["--picture"]).exists()


def readable(folder: Path) -> None:
    """What a run that failed has left under its outputs' names is whole."""
    if (folder / OUTPUTS["--out"]).exists():
        read_segmentation(folder / OUTPUTS["--out"], may_be_empty=True)
    for option in ("--labelmap", "--confidence"):
        if (folder / OUTPUTS[option]).exists():
            read_volume(folder / OUTPUTS[option])
    if (folder / OUTPUTS["--report"]).exists():
        json.loads((folder / OUTPUTS["--report"]).read_text())


def reported_in_words(ended: Ended) -> None:
    in_words(ended, [0, 2])
    if ended.code == 2:
        lines = [line for line in ended.err.splitlines() if not line.startswith("Warning: ")]
        first = next(line.rsplit("\r", 1)[-1] for line in lines if "oflsam2: " in line)
        assert "Errno" not in first and "Something went wrong" not in first, ended.err


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_at_any_moment_of_segmenting(
    programs: Programs, data: Path, task: Path, tmp_path: Path, error: int
) -> None:
    failed = 0
    for nth in range(1, ENOUGH):
        folder = tmp_path / str(nth)
        folder.mkdir()
        fault = Fault(error=error, nth=nth)
        ended = programs.run(*segment(data, task), folder=folder, fault=fault)
        reported_in_words(ended)
        readable(folder)
        failed += ended.code == 2
        if ended.code == 0:
            whole(folder)
        if nth > 8 and ended.code == 0 and failed >= len(OUTPUTS):
            break
    assert failed >= len(OUTPUTS)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_moment_of_learning(
    programs: Programs, data: Path, tmp_path: Path, error: int
) -> None:
    words = ["learn", *support(data), "--out", "x.oflsam2", *METHOD]
    failed = 0
    for nth in range(1, ENOUGH):
        folder = tmp_path / str(nth)
        folder.mkdir()
        ended = programs.run(*words, folder=folder, fault=Fault(error=error, nth=nth))
        reported_in_words(ended)
        assert (folder / "x.oflsam2").exists() == (ended.code == 0)
        if ended.code == 0:
            assert LearnedTask.load(folder / "x.oflsam2").structures
        failed += ended.code == 2
        if ended.code == 0 and failed >= 2 and nth > 5:
            break
    assert failed >= 2


@pytest.mark.parametrize("size", [0, 1, 100, 300, 500, 1000, 2000, 4000, 10_000, 10 * MB])
def test_a_disk_that_is_full_after_so_many_bytes(
    programs: Programs, data: Path, task: Path, tmp_path: Path, size: int
) -> None:
    for words in (segment(data, task), ["learn", *support(data), "--out", "x.oflsam2", *METHOD]):
        ended = programs.run(*words, folder=tmp_path, fault=Fault(file_size=size or 1))
        if size >= 1000:  # Here stderr is a file as well, which holds no message then.
            reported_in_words(ended)
        assert ended.code in (0, 2) and not ended.hung and ended.temporary == []
        readable(tmp_path)
        if size <= 300:
            assert ended.code == 2
        if size == 10 * MB:
            assert ended.code == 0


@pytest.mark.parametrize("megabytes", [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 2048])
def test_a_machine_with_too_little_memory_says_so(
    programs: Programs, data: Path, task: Path, tmp_path: Path, megabytes: int
) -> None:
    learn = ["learn", *support(data), "--out", "x.oflsam2", *METHOD]
    evaluate = ["evaluate", data, "--out", "report", *METHOD]
    for words in (segment(data, task), learn, evaluate):
        ended = programs.run(*words, folder=tmp_path, fault=Fault(memory=megabytes * MB))
        in_words(ended, [0, 2, 3])
        readable(tmp_path)
        if ended.code == 2:
            assert "memory" in ended.err, ended.err
            assert "damaged" not in ended.err
        if megabytes == 2048:
            assert ended.code == 0, ended.err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("how", ["closed", "no reader", "full"])
@pytest.mark.parametrize("command", ["segment", "learn", "evaluate", "methods"])
def test_a_stream_that_nobody_reads_does_not_end_the_work_nor_hide_that_it_failed(
    programs: Programs, data: Path, task: Path, tmp_path: Path, stream: str, how: str, command: str
) -> None:
    words = {
        "segment": segment(data, task),
        "learn": ["learn", *support(data), "--out", "x.oflsam2", *METHOD],
        "evaluate": ["evaluate", data, "--out", "report", *METHOD],
        "methods": ["methods"],
    }[command]
    fault = Fault(stdout=how) if stream == "stdout" else Fault(stderr=how)
    ended = programs.run(*words, folder=tmp_path, fault=fault)
    # What was to be printed into a file on a full disk is missing: that is no success.
    assert ended.code == (2 if (stream, how) == ("stdout", "full") else 0), ended.err
    assert not ended.hung and "Traceback" not in ended.err and ended.left == []
    if ended.code == 0 and command == "segment":
        whole(tmp_path)
    if ended.code == 0 and command == "evaluate":
        report = json.loads((tmp_path / "report" / "report.json").read_text())
        assert report["complete"] and len(report["cases"]) == 2


def test_one_damaged_case_does_not_end_an_evaluation(
    programs: Programs, data: Path, tmp_path: Path
) -> None:
    own = tmp_path / "data"
    own.mkdir()
    for path in data.iterdir():
        (own / path.name).write_bytes(path.read_bytes())
    broken = own / "case2_image.nii.gz"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    ended = programs.run("evaluate", own, "--out", "report", *METHOD, folder=tmp_path)
    in_words(ended, [3])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [case["case"] for case in report["cases"]] == ["case3"]
    assert [case["case"] for case in report["failed"]] == ["case2"]
    assert "case2_image.nii.gz" in report["failed"][0]["message"]
    assert "case2 has no result" in ended.out
