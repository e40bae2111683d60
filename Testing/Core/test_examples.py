"""The examples run as they stand: quickly with a small SAM 2 of random weights, and as programs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.session import FewShotSession

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
QUICK = {"training_steps": 8, "encoded_slices": 16, "slicing_axis": "axial", "atlas_prior": False}


def load(number: int) -> ModuleType:
    path = EXAMPLES[number - 1]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def session() -> FewShotSession:
    return FewShotSession(Sam2Backbone.random(seed=3, image_size=128), options=QUICK)


@pytest.fixture
def data(cases: Path) -> Dataset:
    return Dataset.open(cases)


def test_there_are_five_numbered_from_one() -> None:
    assert [int(path.stem[:2]) for path in EXAMPLES] == [1, 2, 3, 4, 5]


def test_1_a_volume_is_segmented_and_written(session, data, tmp_path, capsys) -> None:
    load(1).main(tmp_path, session, data)
    assert {path.name for path in tmp_path.iterdir()} == {"out.seg.nrrd", "confidence.nii.gz"}
    printed = capsys.readouterr().out
    assert (
        "anterior hippocampus: Dice 0." in printed and "posterior hippocampus: Dice 0." in printed
    )


def test_2_slices_come_one_by_one_and_the_work_can_be_stopped(
    session, data, tmp_path, capsys
) -> None:
    load(2).main(tmp_path, session, data)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("slice ") for line in lines) == 5
    assert any(line.startswith("5 of 6 slices") for line in lines)
    assert lines[-1] == "Cancelled."


def test_3_a_task_from_arrays_is_saved_and_used_again(session, tmp_path, capsys) -> None:
    load(3).main(tmp_path, session)
    assert (tmp_path / "ball.oflsam2").is_file()
    # The ball fills a thirteenth of the volume: labelling all of it has 0.14.
    assert float(capsys.readouterr().out.split()[1]) > 0.2


def test_4_up_to_five_slices_are_named_with_what_is_expected_to_be_wrong(
    session, data, tmp_path, capsys
) -> None:
    load(4).main(tmp_path, session, data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("slice ")]
    expected = [int(line.split(":")[1].split()[0]) for line in lines]
    assert 1 < len(lines) <= 5 and expected[0] == max(expected) > 0


@pytest.mark.slow
def test_5_a_worker_learns_and_segments(data, tmp_path, capsys) -> None:
    load(5).main(tmp_path, QUICK, data)
    assert capsys.readouterr().out.splitlines()[-1].startswith("6 slices, ")


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_is_a_program(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
