"""`oflsam2 compare`: several methods in one table, failures included; and what is in the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import refused, run, succeed

from OFLSAM2Core.evaluation.comparison import ComparedMethod, Comparison


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


def _report(method: str, dices: list[float], seconds: float, of: int) -> dict[str, Any]:
    cases = [
        {
            "case": f"case{number}",
            "structures": {"organ": {"dice": dice, "hd95": 10 * (1 - dice), "assd": None}},
            "seconds": seconds,
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
