"""Use each slice as soon as it is ready, show progress, and stop in the middle."""

from __future__ import annotations

import sys
from pathlib import Path

from OFLSAM2Core import (
    Cancelled,
    Dataset,
    FewShotSession,
    Progress,
    SegmentationBuffer,
    sample_data,
)


def show(progress: Progress) -> None:
    """Called from within the work; whatever it raises stops the work."""
    print(f"{progress.stage} {progress.done}/{progress.total} {progress.message}")


def main(folder: Path, session: FewShotSession | None = None, data: Dataset | None = None) -> None:
    data = data or sample_data()
    session = session or FewShotSession(preset="fast")
    task = session.learn([data.read_case(name) for name in data.support[:2]], show)
    volume = data.read_case(data.test[0]).volume

    found = SegmentationBuffer(volume)
    for result in session.segment(volume, task, show):
        found.add(result)
        scores = ", ".join(f"{name} {score:.2f}" for name, score in result.scores.items())
        print(f"slice {result.index} along axis {result.axis}: S_cf {scores}")
        if found.slices_done == 5:
            break  # The generator is closed: nothing goes on in the background.
    print(f"{found.slices_done} of {found.slices_total} slices, {(found.labels > 0).sum()} voxels")

    def cancel(progress: Progress) -> None:
        if progress.stage == "segment":
            raise Cancelled

    try:
        list(session.segment(volume, task, cancel))
    except Cancelled as reason:
        print(reason)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
