"""Ctrl-C, a request to end, a closed terminal: what was finished is kept, and nothing else left."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from fault import Ended, Fault
from programs import Programs, in_words
from quick_runs import METHOD, OUTPUTS, segment, support

from OFLSAM2Core.io.reading import read_segmentation, read_volume

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SLICES = 8
MOMENTS = range(1, 300)
"""Files opened, made or renamed: more than a run has. Each test goes on until a run ends by itself
before the signal's turn comes."""


def slices_kept(ended: Ended, folder: Path) -> int:
    """How many slices the outputs of a stopped run hold, each output whole; 0 without outputs."""
    if not (folder / OUTPUTS["--report"]).exists():
        assert "finished" not in ended.out
        return 0
    report = json.loads((folder / OUTPUTS["--report"]).read_text())
    labels = read_segmentation(folder / OUTPUTS["--out"], may_be_empty=True)[0]
    confidence = read_volume(folder / OUTPUTS["--confidence"]).array
    assert np.array_equal(labels, read_volume(folder / OUTPUTS["--labelmap"]).array)
    kept = [entry["index"] for entry in report["slices"]]
    assert sorted(np.flatnonzero(confidence.any(axis=(1, 2)))) == kept
    assert (folder / OUTPUTS["--picture"]).read_bytes().startswith(b"\x89PNG")
    return len(kept)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_stopped_keeps_its_slices_and_says_how_many(
    programs: Programs, data: Path, task: Path, tmp_path: Path, number: int
) -> None:
    fault = Fault(signals=(number,), slice=4)
    ended = programs.run(*segment(data, task), folder=tmp_path, fault=fault)
    in_words(ended, [128 + number])
    kept = slices_kept(ended, tmp_path)
    assert kept == 3
    assert f"{kept} of {SLICES} slices were finished" in ended.out
    assert ended.err.splitlines()[-1] == "Stopped."
    assert not json.loads((tmp_path / "report.json").read_text())["complete"]


def test_a_run_that_is_stopped_in_its_last_stage_does_not_say_that_it_is_finished(
    programs: Programs, data: Path, task: Path, tmp_path: Path
) -> None:
    fault = Fault(signals=(signal.SIGINT,), slice=SLICES + 3)
    ended = programs.run(*segment(data, task), folder=tmp_path, fault=fault)
    in_words(ended, [130])
    assert slices_kept(ended, tmp_path) == SLICES
    assert "The last stage, which improves them, was not finished" in ended.out
    assert not json.loads((tmp_path / "report.json").read_text())["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT,) * 2])
def test_a_signal_at_any_moment_of_writing_leaves_every_output_whole(
    programs: Programs, data: Path, task: Path, tmp_path: Path, signals: tuple[int, ...]
) -> None:
    """Whichever file is just being opened or renamed: from the first to beyond the last."""
    after_the_start = 0
    for nth in MOMENTS:
        folder = tmp_path / str(nth)
        folder.mkdir()
        fault = Fault(signals=signals, nth=nth)
        ended = programs.run(*segment(data, task), folder=folder, fault=fault)
        in_words(ended, [0, 128 + signals[0]])
        kept = slices_kept(ended, folder)
        if ended.code == 0:
            assert kept == SLICES
            break
        after_the_start += kept == SLICES
    assert ended.code == 0
    assert after_the_start >= len(OUTPUTS)


@pytest.mark.slow
def test_a_third_request_ends_it_in_the_middle_of_anything_and_leaves_no_temporary_file(
    programs: Programs, data: Path, task: Path, tmp_path: Path
) -> None:
    for nth in MOMENTS:
        folder = tmp_path / str(nth)
        folder.mkdir()
        ended = programs.run(
            *segment(data, task), folder=folder, fault=Fault(signals=(signal.SIGINT,) * 3, nth=nth)
        )
        in_words(ended, [0, 130])
        if ended.code == 0:
            break
    assert ended.code == 0 and nth > len(OUTPUTS)


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_the_old_output_or_the_new_one(
    programs: Programs, data: Path, task: Path, tmp_path: Path
) -> None:
    words = segment(data, task, "--overwrite")
    assert programs.run(*words, folder=tmp_path).code == 0
    before = {name: (tmp_path / name).read_bytes() for name in OUTPUTS.values()}
    for nth in MOMENTS:
        ended = programs.run(
            *words, folder=tmp_path, fault=Fault(signals=(signal.SIGKILL,), nth=nth)
        )
        for name in OUTPUTS.values():
            # What time it took and what version wrote it may differ; whole it is.
            assert len((tmp_path / name).read_bytes()) > 0.9 * len(before[name])
        slices_kept(ended, tmp_path)
        if ended.code == 0:
            break
    assert ended.code == 0 and nth > len(OUTPUTS)


@pytest.mark.parametrize("number", SIGNALS)
def test_learning_that_is_stopped_writes_no_task(
    programs: Programs, data: Path, tmp_path: Path, number: int
) -> None:
    words = ["learn", *support(data), "--out", "x.oflsam2", *METHOD]
    ended = programs.run(
        *words, "--set", "steps=100000000", folder=tmp_path, fault=Fault((number,), at=0.3)
    )
    in_words(ended, [128 + number])
    assert not (tmp_path / "x.oflsam2").exists()


def test_an_evaluation_that_is_stopped_reports_the_cases_that_were_done(
    programs: Programs, data: Path, tmp_path: Path
) -> None:
    words = ["evaluate", data, "--out", "report", *METHOD]
    fault = Fault(signals=(signal.SIGTERM,), slice=2 * SLICES + 2)
    ended = programs.run(*words, folder=tmp_path, fault=fault)
    in_words(ended, [143])
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [case["case"] for case in report["cases"]] == ["case2"] and not report["complete"]


@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM,)])
@pytest.mark.parametrize("words", [["methods"], ["backbones", "list"], ["segment", "--help"]])
def test_a_signal_at_the_very_start_ends_the_program_in_one_line(
    programs: Programs, tmp_path: Path, words: list[str], signals: tuple[int, ...]
) -> None:
    for at in (0.0, 0.005, 0.02, 0.05):
        ended = programs.run(*words, folder=tmp_path, fault=Fault(signals=signals, at=at))
        in_words(ended, [0, 128 + signals[0]])
        assert len(ended.err.splitlines()) <= 1
