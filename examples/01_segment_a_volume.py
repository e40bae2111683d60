"""Learn from three labelled volumes and segment a fourth one."""

from __future__ import annotations

import sys
from pathlib import Path

from OFLSAM2Core import (
    Dataset,
    FewShotSession,
    SegmentationBuffer,
    dice,
    sample_data,
    write_confidence,
    write_segmentation,
)


def main(folder: Path, session: FewShotSession | None = None, data: Dataset | None = None) -> None:
    # `read_support_case("image.nii.gz", "labels.nii.gz")` and `read_volume("image.nii.gz")` read
    # files of your own.
    data = data or sample_data()
    support = [data.read_case(name) for name in data.support]
    target = data.read_case(data.test[0])

    session = session or FewShotSession(preset="fast")
    task = session.learn(support)

    found = SegmentationBuffer(target.volume)
    for result in session.segment(target.volume, task):
        found.add(result)

    write_segmentation(folder / "out.seg.nrrd", found.labels, target.volume, task.structures)
    write_confidence(folder / "confidence.nii.gz", found.confidence, target.volume)
    for structure in task.structures:
        label = structure.label
        print(f"{structure.name}: Dice {dice(target.labels == label, found.labels == label):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
