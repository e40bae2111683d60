"""Measures the panel during a run on 512x512x200 voxels with three structures.

    python Testing/Slicer/benchmark_panel.py [--size 512 512 200] [--delay 0.01] [--surfaces]
        [--free] [--pipe]

The real panel, presenter and scene side (MRML classes of slicer-core), and a worker process that
streams slices by the real protocol but thresholds instead of segmenting (synthetic_worker.py), so
that it is the panel that is measured. Not measured: redrawing of views, which is Slicer's.

Slicer's event loop holds Python's lock between two calls of Python, so between two turns the lock
is held here, too, 30 ms at a time; --free sleeps instead, as a Python program would. What the
difference costs is measured at the end, where one run is made each way.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "OFLSAM2Slicer"), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from OFLSAM2SlicerLib import worker_link  # noqa: E402
from OFLSAM2SlicerLib.worker_command import worker_command  # noqa: E402
from panels import Panel, application, synthetic_command  # noqa: E402
from scenes import OBLIQUE, add_segmentation, add_volume, ball, new_scene  # noqa: E402

from OFLSAM2Core.app.presenter import WORK_A_TICK_S  # noqa: E402
from OFLSAM2Core.data.structures import Structure  # noqa: E402
from OFLSAM2Core.data.volume import SupportCase, Volume  # noqa: E402

HELD_S = 0.03


def hold_lock(seconds: float = HELD_S) -> None:
    """Let time go by with Python's lock held: no other Python thread runs, as in Slicer."""
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(int(1000 * seconds))
    else:
        ctypes.PyDLL(None).usleep(int(1e6 * seconds))


class Watch:
    """How long the application's event loop stood still, longest first."""

    between: Callable[[], None] = staticmethod(hold_lock)

    def __init__(self) -> None:
        self.turns: list[float] = []
        self.work: list[float] = []  # what of a turn this thread computed: the rest it waited

    def turn(self) -> None:
        began, worked = time.perf_counter(), time.thread_time()
        application.processEvents()
        self.turns.append(1000 * (time.perf_counter() - began))
        self.work.append(1000 * (time.thread_time() - worked))

    def until(self, condition: Callable[[], bool], timeout: float = 600) -> float:
        """Seconds until the condition holds."""
        began = time.perf_counter()
        while not condition():
            self.turn()
            self.between()
            if time.perf_counter() - began > timeout:
                raise TimeoutError
        return time.perf_counter() - began

    def __str__(self) -> str:
        longest = ", ".join(f"{turn:.0f}" for turn in sorted(self.turns, reverse=True)[:5])
        return f"longest turns {longest} ms; of processor time {max(self.work, default=0):.0f} ms"


def timed(thing: Any, name: str, into: list[float]) -> None:
    """Replace a method by one that also notes its processor time, in milliseconds."""
    method = getattr(thing, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            into.append(1000 * (time.thread_time() - began))

    setattr(thing, name, call)


def make_case(scene: Any, shape: tuple[int, int, int], name: str, labelled: bool) -> Any:
    depth, height, width = shape
    image = np.zeros(shape, np.int16)
    masks = {}
    radius = min(height // 6, 3 * depth // 8)
    for number in range(3):
        box_center = (depth // 2, height // 2, (number + 1) * width // 4)
        low = [max(0, c - radius - 1) for c in box_center]
        high = [min(n, c + radius + 2) for c, n in zip(box_center, shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        inside = ball(
            [b - a for a, b in zip(low, high, strict=True)],
            [c - a for c, a in zip(box_center, low, strict=True)],
            radius,
        )
        mask = np.zeros(shape, bool)
        mask[box] = inside
        image[mask] = 100 * (number + 1)
        masks[f"structure {number + 1}"] = mask
    volume = add_volume(scene, image, name, OBLIQUE)
    return volume, add_segmentation(scene, volume, masks, f"{name} seg") if labelled else None


def percentiles(values: list[float]) -> str:
    return (
        f"median {np.percentile(values, 50):.2f} ms, 95th percentile "
        f"{np.percentile(values, 95):.2f} ms, longest {max(values):.1f} ms (n={len(values)})"
    )


def lock_free() -> None:
    time.sleep(0.0005)


def seconds_of_a_run(panel: Panel, between: Callable[[], None]) -> float:
    """Segment the chosen volume with the task that is learned, and measure that."""
    watch = Watch()
    watch.between = between
    panel.ui.segmentButton.click()
    seconds = watch.until(lambda: panel.controller.is_idle)
    print(f"     {seconds:.2f} s, {panel.status.message}", watch)
    return seconds


def show_arrival_of_a_large_task(megabytes: int) -> None:
    """From when the worker has learned a task until it is here."""
    link = worker_link.WorkerLink(
        worker_command(synthetic_command("--task-mb", str(megabytes)), lambda: os.environ)
    )
    volume = Volume(np.zeros((2, 4, 4), np.int16), np.eye(4), "case")
    case = SupportCase(volume, np.ones((2, 4, 4), np.uint8), (Structure("one", 1),))
    arrived: list[float] = []

    def handler(event: Any) -> None:
        if event.name == "done":
            arrived.append(time.time() - event.header["sent_at"])

    link.request(
        lambda client: client.learn([case], return_task=True, backbone="litemedsam"), handler
    )
    turns = []
    while not arrived:
        began = time.perf_counter()
        link.poll(WORK_A_TICK_S)
        turns.append(1000 * (time.perf_counter() - began))
        hold_lock()
    link.close()
    print(f"   a learned task of {megabytes} MB is here {arrived[0]:.2f} s after it was sent;")
    print(f"     longest turn {max(turns):.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 200))
    parser.add_argument("--delay", type=float, default=0.01, help="seconds of work a slice")
    parser.add_argument("--surfaces", action="store_true", help="with 3D surfaces")
    parser.add_argument("--free", action="store_true", help="let go of the lock between turns")
    parser.add_argument("--pipe", action="store_true", help="as over ssh: without shared memory")
    arguments = parser.parse_args()
    if arguments.free:
        Watch.between = staticmethod(lock_free)
    if arguments.pipe:
        worker_link.WorkerClient = partial(worker_link.WorkerClient, share_memory=False)
    shape = (arguments.size[2], arguments.size[1], arguments.size[0])
    scene = new_scene()
    target, _ = make_case(scene, shape, "target", labelled=False)
    small = (40, 96, 96)
    pairs = [make_case(scene, small, f"case {number}", labelled=True) for number in (1, 2)]
    large = make_case(scene, shape, "large case", labelled=True)

    panel = Panel(synthetic_command("--delay", str(arguments.delay)))
    panel.choose(target, pairs)
    process = psutil.Process()
    before = process.memory_info().rss

    print("Cold start, learning from two small cases, then segmenting:")
    watch = Watch()
    adds: list[float] = []
    flushes: list[float] = []
    clicked = time.perf_counter()
    panel.ui.segmentButton.click()
    watch.turns.append(1000 * (time.perf_counter() - clicked))
    run = panel.controller.run
    timed(run, "add", adds)
    timed(run, "flush", flushes)
    watch.until(lambda: panel.controller.is_idle)
    print("  ", panel.status.message, watch)
    print("   write of a slice:", percentiles(adds))
    print("   flush to the views:", percentiles(flushes))
    after = process.memory_info().rss
    print(f"   memory of this process: {(after - before) / 2**20:.0f} MiB more after the run")

    print("Warm worker and learned task:")
    panel.ui.learnedTaskCheckBox.checked = True
    if arguments.surfaces:
        panel.parameters.segmentation.CreateClosedSurfaceRepresentation()
    watch = Watch()
    clicked = time.perf_counter()
    panel.ui.segmentButton.click()
    watch.turns.append(1000 * (time.perf_counter() - clicked))
    watch.until(lambda: panel.status.slices_done > 0)
    print(f"   from click to first slice: {1000 * (time.perf_counter() - clicked):.0f} ms")
    watch.until(lambda: panel.status.slices_done > shape[0] // 2)
    cancelled = time.perf_counter()
    panel.ui.segmentButton.click()
    watch.until(lambda: not panel.status.is_running)
    print(f"   from cancel to stopped: {1000 * (time.perf_counter() - cancelled):.0f} ms", watch)
    watch.until(lambda: panel.controller.is_idle)

    print("A support case as large as the target:")
    panel.ui.learnedTaskCheckBox.checked = False
    panel.ui.supportTable.selectAll()
    panel.ui.removeSupportButton.click()
    began = time.perf_counter()
    panel.choose(target, [large])
    print(f"   adding it: {1000 * (time.perf_counter() - began):.0f} ms")
    watch = Watch()
    clicked = time.perf_counter()
    panel.ui.segmentButton.click()
    watch.turns.append(1000 * (time.perf_counter() - clicked))
    watch.until(lambda: panel.controller.is_idle)
    print("  ", panel.status.message, watch)

    print(
        "Python's lock held 30 ms at a time, against let go of (each run twice, the quicker one):"
    )
    panel.ui.learnedTaskCheckBox.checked = True
    held = min(seconds_of_a_run(panel, hold_lock) for _ in range(2))
    free = min(seconds_of_a_run(panel, lock_free) for _ in range(2))
    print(f"   {shape[0]} slices: {held:.2f} s and {free:.2f} s, {held / free:.2f} times")
    panel.close()
    show_arrival_of_a_large_task(130)


if __name__ == "__main__":
    main()
