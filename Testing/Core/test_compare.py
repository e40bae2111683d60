"""`oflsam2 compare`: several methods in one table, failures included; and what is in the table."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import ROOT, refused, run, succeed
from toy_package import case_of, install

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.cli import compare
from OFLSAM2Core.cli.evaluate import about
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.evaluation.comparison import ComparedMethod, Comparison
from OFLSAM2Core.evaluation.datasets import sample_data
from OFLSAM2Core.session import FewShotSession


@pytest.mark.slow
def test_methods_are_compared_and_one_that_fails_has_its_reason_in_the_table(
    cases: Path, tmp_path: Path
) -> None:
    out, nothing = tmp_path / "out", tmp_path / "none.pth"
    words = ["compare", cases, "--methods", "atlas,sam2-mask-prompt", "--out", out]
    words += ["--supports", 1, "--cases", 1, "--device", "cpu", "--weights", nothing]
    assert str(out / "comparison.md") in succeed(*words)
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    atlas, prompted = content["methods"]
    assert atlas["cases"] == atlas["of"] == 1 and atlas["reason"] == ""
    assert 0 <= atlas["measures"]["dice"]["mean"] <= 1
    assert atlas["seconds_a_volume"] > 0 and atlas["learned_values"] > 1000
    assert atlas["core_seconds_to_learn"] > 0 and atlas["core_seconds_a_volume"] > 0
    assert prompted["measures"] is None and "none.pth" in prompted["reason"]
    table = (out / "comparison.md").read_text(encoding="utf-8")
    assert "| atlas |" in table and "none.pth" in table
    assert (out / "comparison.png").stat().st_size > 0

    # What was evaluated is kept; what was not is tried again.
    report = out / "atlas" / "report.json"
    before = report.stat().st_mtime_ns
    succeed(*words)
    assert report.stat().st_mtime_ns == before


def test_unknown_methods_are_refused_before_anything_is_done(cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(run("compare", cases, "--methods", "atlas,atlass", "--out", out), "atlass")
    refused(run("compare", cases, "--methods", "atlas,atlas", "--out", out), "once")
    assert not out.exists()


Compared = tuple[list[object], dict[str, str], Path]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, `boxes`, and a comparison of one method on it, `out`."""
    root = tmp_path_factory.mktemp("compared")
    folder = root / "boxes"
    folder.mkdir()
    for number in range(3):
        case = case_of(number)
        for kind, array in (("image", case.volume.array), ("label", case.labels)):
            path = str(folder / f"box{number}_{kind}.nii.gz")
            sitk.WriteImage(sitk.GetImageFromArray(array), path)
    content = {"name": "boxes", "labels": {"1": "box"}, "support": ["box0"]}
    (folder / "dataset.json").write_text(json.dumps({**content, "test": ["box1", "box2"]}))
    install(root / "site")
    succeed(*_words(root), PYTHONPATH=os.pathsep.join([str(ROOT), str(root / "site")]))
    return root


def _words(root: Path) -> list[object]:
    words = ["compare", root / "boxes", "--methods", "toy-threshold", "--out", root / "out"]
    return [*words, "--device", "cpu"]


@pytest.fixture
def compared(evaluated: Path, package: Path, tmp_path: Path) -> Compared:
    """A comparison that is done: its words, its environment and the report of its one method."""
    shutil.copytree(evaluated / "boxes", tmp_path / "boxes")
    shutil.copytree(evaluated / "out", tmp_path / "out")
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(package)])}
    return _words(tmp_path), path, tmp_path / "out" / "toy-threshold" / "report.json"


def _compare(words: Sequence[object]) -> int:
    """The command in this process, which takes a tenth of the time."""
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    parser.set_defaults(quiet=True)
    return compare.run(parser.parse_args([str(word) for word in words[1:]]))


def _refusal(words: Sequence[object]) -> str:
    with pytest.raises(InputError) as refusal:
        _compare(words)
    assert "--overwrite" in refusal.value.hint
    return refusal.value.message


def _files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def _change(report: Path, **values: Any) -> None:
    content = {**json.loads(report.read_text(encoding="utf-8")), **values}
    report.write_text(json.dumps(content), encoding="utf-8")


def test_an_evaluation_of_something_else_is_lost_only_where_the_user_says_so(
    compared: Compared,
) -> None:
    words, path, report = compared
    before = _files(report.parent)
    succeed(*words, "--overwrite", **path)
    assert _files(report.parent) == before  # It is what is asked for, and is kept.
    before = _files(report.parents[1])
    refused(run(*words, "--seed", 1, **path), f"'{report.parents[1]}'", "seed 0, not 1")
    refused(run(*words, "--cases", 1, **path), f"'{report.parents[1]}'", "other test cases")
    (report.parents[1] / "comparison.json").unlink()
    refused(run(*words, "--seed", 1, **path), "comparison.md", "--overwrite")
    (report.parents[1] / "comparison.md").unlink()
    (report.parents[1] / "comparison.png").unlink(missing_ok=True)
    refused(run(*words, "--preset", "fast", **path), f"'{report.parent}'", 'preset "balanced"')
    after = _files(report.parents[1])
    assert after == {file: before[file] for file in before if file.parent == report.parent}
    succeed(*words, "--seed", 1, "--overwrite", **path)
    assert json.loads(report.read_text(encoding="utf-8"))["seed"] == 1


def test_a_method_that_learned_from_the_test_volumes_is_called_transductive(
    compared: Compared,
) -> None:
    words, path, report = compared
    refused(run(*words, "--unlabelled", **path), "transductive false, not true")
    words = [*words, "--methods", "toy-threshold,atlas", "--overwrite"]
    succeed(*words, "--unlabelled", **path)
    content = json.loads((report.parents[1] / "comparison.json").read_text(encoding="utf-8"))
    assert [row["transductive"] for row in content["methods"]] == [True, False]
    table = (report.parents[1] / "comparison.md").read_text(encoding="utf-8")
    assert "| toy-threshold (transductive) |" in table and "| atlas |" in table
    for text in (table, report.with_suffix(".md").read_text(encoding="utf-8")):
        assert "without their labels" in text
    assert json.loads(report.read_text(encoding="utf-8"))["transductive"]


def test_test_volumes_are_learned_from_only_where_a_method_can(cases: Path, tmp_path: Path) -> None:
    for command in (("evaluate", cases, "--method"), ("compare", cases, "--methods")):
        told = run(*command, "atlas", "--out", tmp_path / "out", "--unlabelled")
        refused(told, "'atlas' does not learn from volumes without labels")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_was_stopped_is_done_again(compared: Compared) -> None:
    words, path, report = compared
    _change(report, complete=False)
    succeed(*words, **path)
    assert json.loads(report.read_text(encoding="utf-8"))["complete"]


def test_a_row_says_why_an_evaluation_that_was_stopped_could_not_be_done_again(
    compared: Compared, tmp_path: Path
) -> None:
    words, _, report = compared
    words = [*words, "--methods", "sam2-mask-prompt", "--weights", tmp_path / "weights.pth"]
    (tmp_path / "weights.pth").write_bytes(b"of no backbone")
    prompted = report.parents[1] / "sam2-mask-prompt" / "report.json"
    report.parent.rename(prompted.parent)
    identity = hashlib.sha256(b"of no backbone").hexdigest()
    cases = json.loads(prompted.read_text(encoding="utf-8"))["cases"]
    _change(
        prompted,
        method="sam2-mask-prompt",
        backbone_identity=identity,
        complete=False,
        cases=cases[:1],
    )
    assert _compare(words) == 0
    (row,) = json.loads((report.parents[1] / "comparison.json").read_text())["methods"]
    assert row["cases"] == 1 and "weights.pth" in row["reason"]


def test_an_option_is_set_for_the_methods_that_have_it(compared: Compared, tmp_path: Path) -> None:
    words, path, report = compared
    words = [*words, "--overwrite", "--weights", tmp_path / "weights.pth"]
    words += ["--methods", "toy-threshold,sam2-mask-prompt"]
    succeed(*words, "--set", "threshold=0.6", **path)
    _, other = json.loads((report.parents[1] / "comparison.json").read_text())["methods"]
    assert "weights.pth" in other["reason"]  # And not that it has no such option.
    assert json.loads(report.read_text())["options"] == {"threshold": "0.6"}
    with pytest.raises(InputError, match="thresh"):
        _compare([*words, "--set", "thresh=0.6"])
    with pytest.raises(InputError, match="threshold"):
        _compare([*words, "--set", "threshold=much"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("oflsam2", "0.0.1"),
        ("method", "atlas"),
        ("device", "auto"),
        ("options", {"threshold": 0.4}),
        ("backbone", "sam2.1-tiny"),
        ("backbone_identity", "0" * 64),
        ("backbone_identity", None),
    ],
)
def test_a_report_of_other_settings_is_not_taken_for_this_ones(
    compared: Compared, key: str, value: Any
) -> None:
    words, _, report = compared
    _change(report, **{key: value})
    message = _refusal(words)
    assert f"'{report.parent}'" in message and f": {key} " in message
    assert "; " not in message  # Nothing else differs.


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {name: value for name, value in content.items() if name != key}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: [content],
        lambda content: {"report": "of another program"},
        lambda content: {**content, "cases": [{"case": "box1"}]},
        lambda content: {**content, "seconds_to_learn": "a while"},
        _without("failed"),
        _without("oflsam2"),
    ],
)
def test_what_is_no_report_is_refused_in_words(
    compared: Compared, damage: Callable[[dict[str, Any]], Any]
) -> None:
    words, _, report = compared
    content = json.loads(report.read_text(encoding="utf-8"))
    report.write_text(json.dumps(damage(content)), encoding="utf-8")
    assert str(report.parent) in _refusal(words)


def test_cases_in_which_there_was_nothing_to_find_have_a_row_without_dice(
    compared: Compared,
) -> None:
    words, _, report = compared
    cases = json.loads(report.read_text(encoding="utf-8"))["cases"]
    for case in cases:
        case["structures"]["box"].update(dice=None, hd95=None, assd=None)
    _change(report, cases=cases)
    assert _compare(words) == 0
    table = (report.parents[1] / "comparison.md").read_text(encoding="utf-8")
    assert "| toy-threshold | - | - | - | 2/2 |" in table


def test_a_report_that_is_cut_off_is_refused_and_replaced_where_the_user_says_so(
    compared: Compared,
) -> None:
    words, path, report = compared
    content = json.loads(report.read_text(encoding="utf-8"))
    report.write_bytes(report.read_bytes()[:100])
    refused(run(*words, **path), f"'{report}'", "damaged", "--overwrite")
    succeed(*words, "--overwrite", **path)
    assert set(json.loads(report.read_text(encoding="utf-8"))) == set(content)


def test_an_evaluation_with_other_weights_is_not_taken_for_one_with_these(
    compared: Compared, tmp_path: Path
) -> None:
    words, _, report = compared
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"of no backbone: evaluating with them would give no result")
    words = [*words, "--methods", "sam2-mask-prompt", "--weights", weights]
    prompted = report.parents[1] / "sam2-mask-prompt" / "report.json"
    report.parent.rename(prompted.parent)
    _change(prompted, method="sam2-mask-prompt", backbone_identity="0" * 64)
    message = _refusal(words)
    assert f"'{prompted.parent}'" in message and ': backbone_identity "0000' in message
    assert "; " not in message
    _change(prompted, backbone_identity=hashlib.sha256(weights.read_bytes()).hexdigest())
    assert _compare(words) == 0
    table = json.loads((report.parents[1] / "comparison.json").read_text(encoding="utf-8"))
    assert [row["cases"] for row in table["methods"]] == [2]
    weights.unlink()
    assert "not unknown" in _refusal(words)


def test_a_report_says_with_which_weights_it_was_made() -> None:
    args = argparse.Namespace(backbone=None, device="cpu", seed=0, preset=None)
    backbone = Sam2Backbone.random()
    for method, told in (("ofl-sam2", backbone.identity), ("atlas", "")):
        session = FewShotSession(backbone, method=method)
        report = about(args, sample_data(), session, ["a"], ["b"])
        assert report["backbone_identity"] == told


def test_what_is_no_report_has_no_row() -> None:
    for key in ("cases", "failed", "test", "method", "seconds_to_learn"):
        report = _report("one", [0.5], 2.0, 1)
        del report[key]
        with pytest.raises(InputError, match="damaged"):
            ComparedMethod.of_report(report)


def _report(method: str, dices: list[float], seconds: float, of: int) -> dict[str, Any]:
    cases = [
        {
            "case": f"case{number}",
            "structures": {"organ": {"dice": dice, "hd95": 10 * (1 - dice), "assd": None}},
            "seconds": seconds,
            "core_seconds": seconds / 2,
            "peak_memory_mb": 100 + number,
        }
        for number, dice in enumerate(dices)
    ]
    return {
        "method": method,
        "cases": cases,
        "failed": [],
        "test": [f"case{number}" for number in range(of)],
        "seconds_to_learn": 5.0,
        "core_seconds_to_learn": 3.0,
        "learned_values": 12,
    }


def test_a_row_says_what_its_report_says() -> None:
    row = ComparedMethod.of_report(_report("one", [0.5, 0.7, 0.9], 2.0, 4))
    assert row.measures is not None
    assert row.measures["dice"]["mean"] == pytest.approx(0.7)
    assert 0.5 <= row.measures["dice"]["low"] <= 0.7 <= row.measures["dice"]["high"] <= 0.9
    assert row.measures["hd95"]["mean"] == pytest.approx(3.0)
    assert row.measures["assd"]["mean"] is None
    assert (row.cases, row.of, row.peak_memory_mb) == (3, 4, 102)
    assert (row.seconds_to_learn, row.core_seconds_to_learn) == (5.0, 3.0)
    assert (row.seconds_a_volume, row.core_seconds_a_volume) == (2.0, 1.0)
    assert "time" in row.reason


def test_the_best_stands_first_and_a_failure_last() -> None:
    rows = [
        ComparedMethod("broken", of=2, reason="no weights"),
        ComparedMethod.of_report(_report("worse", [0.4, 0.5], 1.0, 2)),
        ComparedMethod.of_report(_report("better", [0.8, 0.9], 50.0, 2)),
    ]
    comparison = Comparison({"dataset": "set", "support": ["a"]}, "mm", rows)
    lines = comparison.to_markdown().splitlines()
    found = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert found == ["method", "better", "worse", "broken"]
    pixels = np.array(comparison.plot())
    blue = (pixels == (0x20, 0x60, 0xB0)).all(axis=-1)
    rows_of_points = np.flatnonzero(blue.any(axis=1))
    left = np.flatnonzero(blue[rows_of_points.min() + 3])  # The higher point is the slower method.
    right = np.flatnonzero(blue[rows_of_points.max() - 3])
    assert left.mean() > right.mean()


def test_the_table_of_sequences_has_j_and_f() -> None:
    report = _report("one", [0.5, 0.7], 2.0, 2)
    for case, both in zip(report["cases"], ((0.5, 0.3), (0.7, 0.4)), strict=True):
        case["frames"] = {"organ": {"region": both[0], "boundary": both[1]}}
        case["frames_per_second"] = 4.0
    row = ComparedMethod.of_report(report)
    assert (row.region, row.frames_per_second) == (pytest.approx(0.6), 4.0)
    about = {"dataset": "video", "support": [], "support_percent": 10.0}
    table = Comparison(about, "voxel", [row]).to_markdown()
    assert "10 % of the frames" in table and "| J | F | frames a second |" in table
    assert "| 0.6 | 0.35 | 4 |" in table
    header, rule, line = (each.count("|") for each in table.splitlines()[4:7])
    assert header == rule == line


def _where_the_only_point_is(about: dict[str, Any], row: ComparedMethod) -> int:
    picture = np.array(Comparison({"dataset": "set", "support": [], **about}, "mm", [row]).plot())
    blue = (picture == (0x20, 0x60, 0xB0)).all(axis=-1)
    return round(float(np.flatnonzero(blue.any(axis=0)).mean()))


def test_the_plot_s_time_is_of_cores_on_a_processor_and_of_the_clock_elsewhere() -> None:
    busy = ComparedMethod.of_report(_report("one", [0.5, 0.6], 80.0, 2))  # 85 s, 43 core-seconds.
    assert busy.core_seconds_a_volume == 40.0
    on_clock = _where_the_only_point_is({"device": "cuda:0"}, busy)
    on_cores = _where_the_only_point_is({"device": "cpu"}, busy)
    assert on_cores < on_clock - 50
    report = _report("one", [0.5, 0.6], 80.0, 2)
    del report["core_seconds_to_learn"]
    unknown = ComparedMethod.of_report(report)
    assert _where_the_only_point_is({"device": "cpu"}, unknown) == on_clock
