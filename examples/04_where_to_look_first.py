"""Which slices to check first, and whether confidence foretells what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

from OFLSAM2Core import Dataset, FewShotSession, SegmentationBuffer, sample_data


def main(folder: Path, session: FewShotSession | None = None, data: Dataset | None = None) -> None:
    data = data or sample_data()
    session = session or FewShotSession(preset="fast")
    task = session.learn([data.read_case(name) for name in data.support])
    target = data.read_case(data.test[1])

    found = SegmentationBuffer(target.volume)
    for result in session.segment(target.volume, task):
        found.add(result)

    # Expected wrong voxels of a slice: the sum of 1 - confidence. Most of them first, and no two
    # slices side by side.
    wrong = (found.labels != target.labels).swapaxes(0, found.axis or 0)
    for index in found.slices_to_review(5):
        expected = found.expected_error_voxels(index)
        print(f"slice {index}: {expected:.0f} voxels expected, {wrong[index].sum()} wrong")

    is_wrong = found.labels != target.labels
    print(f"mean confidence where right {found.confidence[~is_wrong].mean() / 255:.2f}")
    if is_wrong.any():
        print(f"mean confidence where wrong {found.confidence[is_wrong].mean() / 255:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
