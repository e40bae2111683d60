"""The command that trains what the method is compared with, as docs/accuracy.md gives it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from OFLSAM2Core.evaluation.datasets import sample_data

ROOT = Path(__file__).parents[2]


def _run(core_minutes: float, out: Path) -> int:
    """Steps of learning, from the first."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "Testing" / "Accuracy" / "unet_baseline.py"),
            str(sample_data().folder),
            *("--dimensions", "3", "--core-minutes", str(core_minutes)),
            *("--out", str(out), "--cases", "1"),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found = re.search(r"^(\d+) steps in \d+ s of one core$", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[1])


@pytest.mark.slow
def test_a_u_net_learns_for_the_time_it_is_given_and_goes_on_where_it_was_stopped(tmp_path):
    steps = _run(0.02, tmp_path)
    assert steps > 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["complete"] and len(report["cases"]) == 1
    assert 0 <= report["cases"][0]["mean_dice"] <= 1

    (file,) = tmp_path.glob("*.pt")
    kept = torch.load(file, weights_only=True)
    assert kept["steps"] == steps and kept["spent"] >= 1.2
    torch.save({**kept, "spent": 0.6}, file)  # As if it had been stopped half way.
    assert _run(0.02, tmp_path) > steps
