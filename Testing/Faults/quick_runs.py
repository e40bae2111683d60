"""The words of commands that run in a tenth of a second."""

from __future__ import annotations

from pathlib import Path

METHOD = ("--method", "nearest-intensity")
OUTPUTS = {
    "--out": "out.seg.nrrd",
    "--labelmap": "out.nii.gz",
    "--confidence": "confidence.nii.gz",
    "--report": "report.json",
    "--picture": "sheet.png",
}


def support(data: Path) -> list[str]:
    words = ["--labels", str(data / "dataset.json")]
    for case in ("case0", "case1"):
        words += ["--support", f"{data / case}_image.nii.gz={data / case}_label.nii.gz"]
    return words


def segment(data: Path, task: Path, *words: object) -> list[object]:
    """The words of a command that writes everything there is to write."""
    outputs = [part for pair in OUTPUTS.items() for part in pair]
    return ["segment", data / "case2_image.nii.gz", "--task", task, *outputs, *words]
