"""JSON of any content where a table, a data set or a task is expected."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whole_files
from damage import changed_json, damaged, json_values
from hypothesis import given
from hypothesis import strategies as st
from limits import fixed
from safetensors.torch import save

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.evaluation.datasets import Dataset
from OFLSAM2Core.io.label_table import LabelTable
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState

pytestmark = pytest.mark.slow

EXAMPLES = 150

STRUCTURE = {"name": "liver", "label": 1, "color": [0.8, 0.4, 0.3], "terminology": ""}
TABLES = ({"1": "liver", "2": "spleen"}, {"liver": 1}, [STRUCTURE], {"labels": {"1": "liver"}})
DATASET = {"name": "d", "labels": {"1": "organ"}, "support": ["a"], "test": ["b"]}


@pytest.mark.parametrize("table", TABLES)
def test_a_label_table_is_read_or_refused(tmp_path: Path, table: Any) -> None:
    path = tmp_path / "table.json"

    @fixed(EXAMPLES)
    @given(changed_json(table) | json_values())
    def reads(content: Any) -> None:
        path.write_text(json.dumps(content))
        try:
            found = LabelTable.read(path)
        except OFLSAM2Error as error:
            assert "table.json" in error.message
        else:
            assert all(each.name and each.label > 0 for each in found.structures)

    reads()


def test_a_data_set_is_read_or_refused(tmp_path: Path) -> None:
    whole_files.images(tmp_path)
    for case in "ab":
        for kind in ("image", "label"):
            (tmp_path / f"{case}_{kind}.nii").write_bytes((tmp_path / "a_nii.nii").read_bytes())

    @fixed(EXAMPLES)
    @given(changed_json(DATASET) | json_values())
    def reads(content: Any) -> None:
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        try:
            dataset = Dataset.open(tmp_path)
            dataset.choose(None, None, None)
        except OFLSAM2Error as error:
            assert str(tmp_path) in error.message

    reads()


@pytest.fixture(scope="module")
def task() -> LearnedTask:
    state = MethodState(1, {"note": [1, {"a": 2.5}]}, {"means": torch.tensor([0.0, 100.0])})
    return LearnedTask(
        structures=(Structure("liver", 1),),
        method="nearest-intensity",
        state=state,
        options={"wait": 0.0, "steps": 1},
    )


def written(path: Path, contents: Any, tensors: bytes) -> None:
    """As a task's own writer does, its SHA-256 included: made on purpose, not by accident."""
    if isinstance(contents, dict):
        contents = {name: value for name, value in contents.items() if name != "sha256"}
        told = json.dumps(contents, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(told + b"\0" + hashlib.sha256(tensors).digest()).hexdigest()
        contents = {**contents, "sha256": digest}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("task.json", json.dumps(contents))
        archive.writestr("tensors.safetensors", tensors)


def used_or_refused(path: Path) -> LearnedTask | None:
    """The task, loaded, described and written again; None where it is refused in words."""
    try:
        task = LearnedTask.load(path)
    except OFLSAM2Error as error:
        assert path.name in error.message and len(error.message.splitlines()) <= 2
        return None
    assert json.dumps(task.summary(), allow_nan=False)
    assert all(1 <= structure.label <= 255 for structure in task.structures)
    return task


def test_a_tampered_task_is_used_or_refused(task: LearnedTask, tmp_path: Path) -> None:
    path = task.save(tmp_path / "task.oflsam2")
    with zipfile.ZipFile(path) as archive:
        contents = json.loads(archive.read("task.json"))
        tensors = archive.read("tensors.safetensors")

    @fixed(2 * EXAMPLES)
    @given(changed_json(contents))
    def reads(changed: Any) -> None:
        written(path, changed, tensors)
        used_or_refused(path)

    reads()


def test_a_task_that_was_changed_after_it_was_written_is_refused(
    task: LearnedTask, tmp_path: Path
) -> None:
    path = task.save(tmp_path / "task.oflsam2")
    with zipfile.ZipFile(path) as archive:
        contents = json.loads(archive.read("task.json"))
        tensors = archive.read("tensors.safetensors")

    @fixed(EXAMPLES)
    @given(changed_json(contents), damaged(tensors) | st.just(tensors))
    def refuses(changed: Any, content: bytes) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("task.json", json.dumps(changed))
            archive.writestr("tensors.safetensors", content)
        loaded = used_or_refused(path)
        same = json.dumps(changed, sort_keys=True) == json.dumps(contents, sort_keys=True)
        assert loaded is None or (same and content == tensors)

    refuses()


def test_damaged_bytes_of_a_task_are_used_or_refused(task: LearnedTask, tmp_path: Path) -> None:
    path = task.save(tmp_path / "task.oflsam2")

    @fixed(EXAMPLES)
    @given(damaged(path.read_bytes(), header=2000))
    def reads(content: bytes) -> None:
        path.write_bytes(content)
        used_or_refused(path)

    reads()


@fixed(EXAMPLES)
@given(st.lists(st.integers(0, 5), max_size=3), st.sampled_from(["F32", "I64", "U8", "BF16"]))
def test_tensors_of_another_shape_or_type_are_no_bug(shape: list[int], kind: str) -> None:
    import sys

    sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "Faults")]
    from intensity_method import NearestIntensity

    from OFLSAM2Core.session import FewShotSession

    dtypes = {"F32": torch.float32, "I64": torch.int64, "U8": torch.uint8, "BF16": torch.bfloat16}
    tensors = {"means": torch.ones(shape, dtype=dtypes[kind])}
    assert save(tensors)
    task = LearnedTask((Structure("liver", 1),), "nearest-intensity", MethodState(1, {}, tensors))
    session = FewShotSession(method=NearestIntensity(), device="cpu")
    try:
        assert len(list(session.segment(Volume(np.zeros((3, 4, 5), np.int16)), task))) == 6
    except OFLSAM2Error:
        assert shape != [2] or kind == "BF16"
