"""Words that a user can give by mistake: exit code 2, and two lines that say what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from programs import Programs, in_words
from quick_runs import METHOD

pytestmark = pytest.mark.slow

IMAGE, TASK, OUT = "{data}/case2_image.nii.gz", "{task}", ("--out", "o.seg.nrrd")
ONE = ("--support", "{data}/case0_image.nii.gz={data}/case0_label.nii.gz")
LEARN = ("learn", *ONE, "--out", "x.oflsam2", *METHOD)
LONG = "x" * 250

REFUSED = {
    "a seed that is no number": (*LEARN, "--seed", "x"),
    "links in a circle": ("segment", "circle.nii.gz", "--task", TASK, *OUT),
    "a task that is links in a circle": ("segment", IMAGE, "--task", "circle.nii.gz", *OUT),
    "a name that is too long": ("segment", f"{LONG}{LONG}.nii", "--task", TASK, *OUT),
    "an output whose name is too long": (
        "segment", IMAGE, "--task", TASK, "--out", f"{LONG}.seg.nrrd"),
    "a label file whose JSON is nested": (*LEARN, "--labels", "nested.json"),
    "a label of five thousand digits": (*LEARN, "--labels", "digits.json"),
    "a label of 1e999": (*LEARN, "--labels", "infinite.json"),
    "a colour of two numbers": (*LEARN, "--labels", "color2.json"),
    "a colour of four numbers": (*LEARN, "--labels", "color4.json"),
    "a colour that is no number": (*LEARN, "--labels", "color_nan.json"),
    "a folder for labels": (*LEARN, "--labels", "."),
    "a pipe for an image": ("segment", "pipe.nii.gz", "--task", TASK, *OUT),
    "a device for an image": ("segment", "/dev/zero", "--task", TASK, *OUT),
    "an empty folder for an image": ("segment", "empty", "--task", TASK, *OUT),
    "an image for a task": ("segment", IMAGE, "--task", IMAGE, *OUT),
    "an output below a file": ("segment", IMAGE, "--task", TASK, "--out", f"{IMAGE}/o.seg.nrrd"),
    "a device that there is not": (*LEARN, "--device", "cuda:99999999999999999999"),
    "an option that is infinite": (*LEARN, "--set", "steps=1e999"),
    "an option without a value": (*LEARN, "--set", "steps"),
    "an option that there is not": (*LEARN, "--set", "frobnicate=1"),
    "a method that there is not": (*LEARN[:-1], "nope"),
    "a backbone that there is not": (*LEARN[:-2], "--backbone", "../nope"),
    "weights that are a folder": (*LEARN[:-2], "--weights", "."),
    "weights that are an image": (*LEARN[:-2], "--weights", IMAGE),
    "no pair": ("learn", "--support", "abc", "--out", "x.oflsam2"),
    "a data set that is not there": ("evaluate", "nowhere", "--out", "r", *METHOD),
    "fewer than no support": ("evaluate", "{data}", "--supports", "-1", "--out", "r", *METHOD),
    "no test cases": ("evaluate", "{data}", "--cases", "0", "--out", "r", *METHOD),
    "a report where a file is": ("evaluate", "{data}", "--out", IMAGE, *METHOD),
    "a bench that is too small": ("bench", "--size", "1x1"),
    "a bench that is too large": ("bench", "--size", "9999999x9999999", "--no-sam2", *METHOD),
    "a bench of too many structures": ("bench", "--structures", "300", "--no-sam2", *METHOD),
    "no command": (),
    "a command that there is not": ("frobnicate",),
}  # fmt: skip

TAKEN = {
    "a large seed": (*LEARN, "--seed", str(10**30)),
    "thirty thousand names": (*LEARN, "--labels", "many.json"),
    "a name that is not UTF-8": (
        "segment", "\udcff\udcfe.nii.gz", "--task", TASK, "--out", "\udcff.seg.nrrd"),
    "a name as long as may be": (
        "segment", IMAGE, "--task", TASK, "--out", "y" * 246 + ".seg.nrrd"),
    "a name with a long part after a dot": (
        "segment", IMAGE, "--task", TASK, *OUT, "--labelmap", "a." + "b" * 230 + ".c.nii.gz"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, data: Path) -> Path:
    structure = {"name": "block", "label": 1}
    os.symlink("circle.nii.gz", tmp_path / "circle.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested.json").write_text("[" * 100_000 + "]" * 100_000)
    (tmp_path / "digits.json").write_text('{"%s": "a"}' % ("9" * 5000))
    (tmp_path / "infinite.json").write_text('[{"name": "block", "label": 1e999}]')
    for name, color in (("color2", [1, 0]), ("color4", [1, 0, 0, 1]), ("color_nan", [0, 0, 1e999])):
        (tmp_path / f"{name}.json").write_text(json.dumps([{**structure, "color": color}]))
    many = {str(value): f"structure {value}" for value in range(1, 30_001)}
    (tmp_path / "many.json").write_text(json.dumps(many))
    image = (data / "case2_image.nii.gz").read_bytes()
    Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff\xfe.nii.gz")).write_bytes(image)
    return tmp_path


def filled(words: tuple[str, ...], data: Path, task: Path) -> list[str]:
    return [word.replace("{data}", str(data)).replace("{task}", str(task)) for word in words]


@pytest.mark.parametrize("words", REFUSED.values(), ids=list(REFUSED))
def test_it_is_refused_in_two_lines(
    programs: Programs, folder: Path, data: Path, task: Path, words: tuple[str, ...]
) -> None:
    ended = programs.run(*filled(words, data, task), folder=folder, limit_s=30)
    in_words(ended, [2])
    lines = [line.rsplit("\r", 1)[-1] for line in ended.err.strip().split("\n")]
    assert len(lines) <= 2 and lines[0].startswith("oflsam2: "), ended.err
    for raw in ("Errno", "Error(", "<class", "object at"):
        assert raw not in ended.err


@pytest.mark.parametrize("words", TAKEN.values(), ids=list(TAKEN))
def test_it_is_taken(
    programs: Programs, folder: Path, data: Path, task: Path, words: tuple[str, ...]
) -> None:
    ended = programs.run(*filled(words, data, task), folder=folder, limit_s=30)
    in_words(ended, [0])
