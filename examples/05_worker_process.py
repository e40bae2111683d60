"""Learn and segment in another process, as Slicer does: it can be cancelled or end at any time."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from OFLSAM2Core import Dataset, SegmentationBuffer, sample_data
from OFLSAM2Core.worker.client import Event, WorkerClient


def main(
    folder: Path, options: Mapping[str, Any] | None = None, data: Dataset | None = None
) -> None:
    data = data or sample_data()
    support = [data.read_case(name) for name in data.support[:2]]
    volume = data.read_case(data.test[0]).volume
    found = SegmentationBuffer(volume)

    def take(event: Event) -> None:
        if event.name == "progress":
            print(event.header["stage"], event.header["done"], "/", event.header["total"])
        elif event.name == "slice":
            found.add(event.slice_result())

    # A command such as ["ssh", "gpu-host", "oflsam2", "worker"] runs it on another computer.
    client = WorkerClient()
    client.start()
    try:
        path = folder / "hippocampus.oflsam2"
        job = client.learn(support, task_path=path, options=options or {"preset": "fast"})
        learned = client.wait(job, take)
        if learned.name == "failed":
            sys.exit(learned.header["message"])
        client.wait(client.segment(volume, task_path=path), take)
    finally:
        client.close()
    print(f"{found.slices_done} slices, {(found.labels > 0).sum()} voxels labelled")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
