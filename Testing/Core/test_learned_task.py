"""A learned task as a file: complete, safe, and honest about what is wrong with it."""

from __future__ import annotations

import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState


@pytest.fixture
def task() -> LearnedTask:
    return LearnedTask(
        structures=(
            Structure(
                "liver",
                3,
                (0.8, 0.4, 0.3),
                "Segmentation category and type~SCT^123037004^Anatomical Structure~"
                "SCT^10200004^Liver~^^",
            ),
        ),
        method="ofl-sam2-atlas",
        state=MethodState(
            version=1,
            metadata={"orientation": "coronal", "widths": [12.5]},
            tensors={"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.float16)},
            summary={"slicing axis": "coronal"},
        ),
        options={"gamma": 0.7, "update": "none"},
        backbone="litemedsam",
        backbone_identity="ab" * 32,
        backbone_precision="bfloat16",
    )


def test_everything_comes_back_from_the_file(task: LearnedTask, tmp_path: Path) -> None:
    loaded = LearnedTask.load(task.save(tmp_path / "liver.oflsam2"))
    assert loaded.summary() == task.summary()
    assert loaded.structures == task.structures and loaded.structures[0].code == "SCT:10200004"
    assert loaded.options == task.options and loaded.method == task.method
    assert loaded.state.version == 1 and loaded.state.metadata == task.state.metadata
    assert loaded.backbone_identity == task.backbone_identity
    assert loaded.backbone_precision == task.backbone_precision
    for name, tensor in task.state.tensors.items():
        assert torch.equal(loaded.state.tensors[name], tensor)
        assert loaded.state.tensors[name].dtype == tensor.dtype


def test_the_file_holds_json_and_safetensors_and_nothing_else(
    task: LearnedTask, tmp_path: Path
) -> None:
    with zipfile.ZipFile(task.save(tmp_path / "t.oflsam2")) as archive:
        assert sorted(archive.namelist()) == ["task.json", "tensors.safetensors"]
        json.loads(archive.read("task.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.oflsam2"]


def test_a_task_that_could_not_be_read_back_is_not_saved(task: LearnedTask, tmp_path: Path) -> None:
    task.state.tensors["a"][0, 1] = torch.nan
    with pytest.raises(TaskError, match="'a'.*not saved"):
        task.save(tmp_path / "t.oflsam2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 10, 200, 600])
def test_a_file_that_was_cut_off_is_refused_by_name(
    task: LearnedTask, tmp_path: Path, kept: int
) -> None:
    path = task.save(tmp_path / "cut.oflsam2")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TaskError, match=r"cut\.oflsam2"):
        LearnedTask.load(path)


def test_a_file_damaged_anywhere_is_refused_and_never_a_bug(
    task: LearnedTask, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.oflsam2"
    task.save(path)
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 65, 40).astype(int):
        path.write_bytes(whole[:place] + bytes(64) + whole[place + 64 :])
        with suppress(TaskError):  # Some places do not matter.
            LearnedTask.load(path)


def test_a_newer_format_asks_for_an_update(task: LearnedTask, tmp_path: Path) -> None:
    path = task.save(tmp_path / "new.oflsam2")
    contents, tensors = _parts(path)
    _put(path, {**contents, "format": contents["format"] + 1}, tensors)
    with pytest.raises(TaskError, match="format version 4") as refused:
        LearnedTask.load(path)
    assert "Update" in refused.value.hint


def _parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """What a task's file says, and its tensors."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("task.json")), archive.read("tensors.safetensors")


def _put(path: Path, contents: dict[str, Any], tensors: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("task.json", json.dumps(contents))
        archive.writestr("tensors.safetensors", tensors)


def test_files_that_are_missing_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="does not exist"):
        LearnedTask.load(tmp_path / "nowhere.oflsam2")
    (tmp_path / "text.oflsam2").write_text("hello")
    with pytest.raises(TaskError, match="not a readable learned task"):
        LearnedTask.load(tmp_path / "text.oflsam2")


def test_saving_where_there_is_no_folder_says_so(task: LearnedTask, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        task.save(tmp_path / "nowhere" / "t.oflsam2")
