"""The folder of a cohort of many cases, as a run leaves it: for tests of its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from cohorts import ball

from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.manifest import Manifest
from OFLSAM2Core.cohort.preview import write_preview
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume

STRUCTURES = (Structure("liver", 1, (0.87, 0.51, 0.39)), Structure("spleen", 2, (0.61, 0.47, 0.85)))


def write_cohort(folder: Path, count: int, previews: int = 20) -> Path:
    """`count` cases: every 50th failed, every 60th empty, the least sure doubtful, one of them with
    a liver of twice the usual volume ("case_0007"); the rest done."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pictures = [_preview(folder, number) for number in range(min(previews, count))]
    with Manifest.create(folder) as manifest:
        manifest.begin(
            {"layout": "flat", "task": "0" * 64},
            host="here",
            pid=1,
            software={"oflsam2": "1.0"},
            task={"method": "ofl-sam2-atlas", "backbone": "litemedsam"},
            left_out=[["/data/scout.nii.gz", "a localizer"]],
        )
        for number in range(count):
            case = CaseInput(f"case_{number:04d}", f"/data/case_{number:04d}.nii.gz")
            manifest.waiting(case)
            if number % 50 == 49:
                manifest.failed(
                    case.name,
                    "input",
                    f"'{case.source}' cannot be read: damaged.",
                    "Copy it again.",
                )
                continue
            empty = number % 60 == 59
            volumes = [0.0, 0.0] if empty else [rng.normal(1500, 150), rng.normal(200, 25)]
            if number == 7:
                volumes[0] = 3600.0
            sure = float(rng.beta(12, 2))
            state = "empty" if empty else "doubtful" if sure < 0.7 else "done"
            manifest.finished(case.name, state, _details(volumes, sure, state))
            content = pictures[number % len(pictures)]
            (folder / "previews" / f"{case.name}.webp").write_bytes(content)
        manifest.end("finished")
    return folder


def _details(volumes: list[float], sure: float, state: str) -> dict[str, Any]:
    return {
        "reason": {"empty": "Nothing was found.", "doubtful": f"Confidence {sure:.2f}: liver."}.get(
            state, ""
        ),
        "confidence": round(sure, 4),
        "structures": [
            {
                "name": structure.name,
                "label": structure.label,
                "color": list(structure.color),
                "voxels": int(ml * 100),
                "ml": round(ml, 2),
                "confidence": round(min(1, sure + 0.05 * number), 4),
            }
            for number, (structure, ml) in enumerate(zip(STRUCTURES, volumes, strict=True))
        ],
        "review": [{"index": 12, "expected_errors": 81.5}, {"index": 13, "expected_errors": 40.0}],
        "notes": [],
        "seconds": 42.5,
        "peak_memory_mb": 1810.0,
        "shape": [60, 256, 256],
        "spacing": [0.8, 0.8, 3.0],
        "input": {"sha256": "ab" * 32, "stamp": "", "files": 1, "bytes": 1000},
        "outputs": {},
        "software": {"oflsam2": "1.0"},
        "computer": "here",
    }


def _preview(folder: Path, seed: int) -> bytes:
    """The real picture of a small volume with two structures."""
    array = ball(32, 6 + seed % 6, seed)
    volume = Volume(array, np.diag([2.0, 2.0, 2.0, 1.0]))
    buffer = SegmentationBuffer(volume)
    for index, plane in enumerate(array):
        found = (plane > 100).astype(np.uint8)
        found[:, 16:] *= 2
        sure = np.where(found > 0, 210, 250).astype(np.uint8)
        buffer.add(SliceResult(index, 0, found, sure, {"liver": 0.9, "spleen": 0.8}))
    name = f"made_{seed}"
    write_preview(folder, name, buffer, STRUCTURES)
    path = folder / "previews" / f"{name}.webp"
    content = path.read_bytes()
    path.unlink()
    return content
