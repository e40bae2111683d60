"""The module's link to its worker, without a panel."""

from __future__ import annotations

import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import panels  # noqa: F401  the double of Slicer's Qt, for what is imported next
import psutil
import pytest
from OFLSAM2SlicerLib.worker_command import worker_command
from OFLSAM2SlicerLib.worker_link import WorkerLink

from OFLSAM2Core.app.presenter import WORK_A_TICK_S
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.worker.client import Event

SYNTHETIC = [sys.executable, str(Path(__file__).with_name("synthetic_worker.py"))]
STRUCTURES = np.frombuffer(b'[{"name": "one", "label": 1}]', np.uint8)

# As PythonSlicer does: a process of Qt that passes its streams on to the Python behind it.
LAUNCHER = """
import sys
from PySide6.QtCore import QCoreApplication, QProcess

application = QCoreApplication(sys.argv)
process = QProcess()
process.setProcessChannelMode(QProcess.ProcessChannelMode.ForwardedChannels)
process.setInputChannelMode(QProcess.InputChannelMode.ForwardedInputChannel)
process.finished.connect(application.exit)
process.start(sys.argv[1], sys.argv[2:])
application.exec()
"""


def poll_until(link: WorkerLink, condition, timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        link.poll(WORK_A_TICK_S)
        time.sleep(0.01)
        assert time.monotonic() < end, link.log_lines()


@pytest.fixture
def volume() -> Volume:
    image = np.zeros((60, 512, 512), np.int16)
    image[:, 100:200, 100:200] = 100
    return Volume(image, np.eye(4), "target")


def test_a_worker_behind_a_launcher_of_qt_sees_the_same_memory_and_ends_with_it(
    tmp_path: Path, volume: Volume
) -> None:
    launcher = tmp_path / "launcher.py"
    launcher.write_text(textwrap.dedent(LAUNCHER))
    command = " ".join([sys.executable, str(launcher), *SYNTHETIC])
    link = WorkerLink(worker_command(command))
    events: list[Event] = []
    link.request(lambda client: client.segment(volume, task=STRUCTURES), events.append)
    poll_until(link, lambda: not link.is_busy)
    assert link.shares_memory
    slices = [event.slice_result() for event in events if event.name == "slice"]
    assert [int(one.labels.sum()) for one in slices] == [100 * 100] * 60
    assert link.pid is not None
    processes = [psutil.Process(link.pid), *psutil.Process(link.pid).children(recursive=True)]
    assert len(processes) >= 2
    link.close()
    assert psutil.wait_procs(processes, timeout=5)[1] == []


def test_what_there_is_no_time_to_hand_out_waits_in_the_worker(volume: Volume) -> None:
    link = WorkerLink(worker_command(" ".join(SYNTHETIC)))
    seen: list[Event] = []

    def slowly(event: Event) -> None:
        seen.append(event)
        time.sleep(0.02)

    link.request(lambda client: client.segment(volume, task=STRUCTURES), slowly)
    poll_until(link, lambda: bool(seen))
    for _ in range(5):
        before = len(seen)
        link.poll(WORK_A_TICK_S)
        assert len(seen) - before <= 1, "the time for one event was over after it"
    link.close()


def test_a_run_that_was_left_alone_and_hangs_is_ended_by_further_polls(volume: Volume) -> None:
    link = WorkerLink(worker_command(" ".join([*SYNTHETIC, "--mode", "hang"])))
    events: list[Event] = []
    number = link.request(lambda client: client.segment(volume, task=STRUCTURES), events.append)
    poll_until(link, lambda: len(events) == 60)  # 30 slices, each with its progress
    process = psutil.Process(link.pid)
    link.cancel(number)
    link.drop(number)
    assert not link.is_busy and link.needs_poll
    poll_until(link, lambda: not link.needs_poll)
    assert psutil.wait_procs([process], timeout=5)[1] == []
    link.close()
