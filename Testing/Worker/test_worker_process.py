"""The worker as a process, spoken to in bare frames."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
from worker_commands import HOOKS, PRODUCT

from OFLSAM2Core.methods import DEFAULT
from OFLSAM2Core.worker.protocol import PROTOCOL_VERSION, Frame, Reader, read_frame, write_frame


class Worker:
    """A worker process and its two pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def send(self, header: dict[str, Any], **arrays: np.ndarray) -> None:
        assert self.process.stdin is not None
        write_frame(self.process.stdin, header, arrays)

    def send_bytes(self, content: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(content)

    def receive(self) -> Frame:
        frame = read_frame(cast(Reader, self.process.stdout))
        assert frame is not None, "the worker has ended"
        return frame

    def receive_last(self, number: Any) -> dict[str, Any]:
        """The header of the event that ends a request."""
        while True:
            header = self.receive().header
            if header["event"] in ("ready", "done", "failed") and header["id"] == number:
                return header

    def is_serving(self) -> bool:
        self.send({"request": "hello", "id": "still there?"})
        return self.receive_last("still there?")["event"] == "ready"

    def events_until_its_end(self) -> list[dict[str, Any]]:
        headers = []
        while (frame := read_frame(cast(Reader, self.process.stdout))) is not None:
            headers.append(frame.header)
        self.process.wait(timeout=5)
        return headers


@contextmanager
def started(command: Sequence[str], environment: dict[str, str]) -> Iterator[Worker]:
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    watchdog = threading.Timer(30, process.kill)  # a worker that does not answer fails its test
    watchdog.start()
    with process:
        try:
            yield Worker(process)
        finally:
            watchdog.cancel()
            process.kill()


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[Worker]:
    with started(HOOKS, environment) as worker:
        yield worker


def ends_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_hello_is_answered_with_versions_devices_backbones_and_methods(
    environment: dict[str, str],
) -> None:
    with started(PRODUCT, environment) as worker:
        worker.send({"request": "hello", "id": 1})
        ready = worker.receive().header
        assert ready["event"] == "ready" and ready["id"] == 1
        assert ready["protocol"] == PROTOCOL_VERSION
        assert ready["python"] == ".".join(map(str, sys.version_info[:3]))
        assert ready["missing"] == []
        cpu = next(device for device in ready["devices"] if device["name"] == "cpu")
        assert 0 < cpu["free_bytes"] <= cpu["total_bytes"]
        assert ready["backbones"][0]["name"] == "litemedsam"
        assert {"bytes", "license", "state"} <= set(ready["backbones"][0])
        assert DEFAULT in [method["name"] for method in ready["methods"]]


def test_without_a_gpu_hello_does_not_wait_for_torch(environment: dict[str, str]) -> None:
    program = (
        "import sys; from OFLSAM2Core.worker.about import about_worker;"
        "devices = about_worker()['devices'];"
        "assert len(devices) > 1 or 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


def test_the_worker_writes_a_log_file(environment: dict[str, str], tmp_path: Path) -> None:
    with started(PRODUCT, environment) as worker:
        assert worker.is_serving()
        assert "Worker started" in (tmp_path / "logs" / "worker.log").read_text()


def test_prints_of_any_kind_do_not_corrupt_the_frames_and_nothing_reads_the_requests(
    worker: Worker,
) -> None:
    worker.send({"request": "print_noise", "id": 1})
    assert worker.receive_last(1) == {"event": "done", "id": 1, "stdin_is_empty": True}
    assert worker.is_serving()


def test_an_unknown_request_and_one_without_what_it_needs_are_refused(worker: Worker) -> None:
    for header in (
        {"request": "nonsense", "id": 1},
        {"request": None, "id": 1},
        {"id": 1},
        {"request": "segment", "id": 1},
        {"request": "segment", "id": 1, "volume": 3, "task_path": "x"},
        {"request": "segment", "id": 1, "volume": {"affine": [[1]]}, "task_path": "x"},
        {"request": "learn", "id": 1},
        {"request": "learn", "id": 1, "support": 7},
        {"request": "learn", "id": 1, "support": [{}]},
        {"request": "learn", "id": 1, "support": [], "return_task": 5},
        {"request": "load_task", "id": 1},
        {"request": "load_task", "id": 1, "task_path": 5},
        {"request": "fetch_weights", "id": 1},
        {"request": "cancel", "id": 1},
        {"request": "cancel", "id": 1, "target": [1]},
    ):
        worker.send(header)
        failed = worker.receive_last(1)
        assert (failed["event"], failed["kind"]) == ("failed", "protocol"), header
        assert failed["message"]
    assert worker.is_serving()


@pytest.mark.parametrize("number", [None, 1.5, [1], True])
def test_a_request_without_a_proper_id_is_refused_with_id_null(worker: Worker, number: Any) -> None:
    worker.send({"request": "hello", "id": number})
    failed = worker.receive().header
    assert (failed["event"], failed["kind"], failed["id"]) == ("failed", "protocol", None)
    assert worker.is_serving()


def test_a_header_that_is_not_json_is_refused_and_the_worker_lives_on(worker: Worker) -> None:
    for text in (b"{'single': 1}", b"\xff\xfe\x00", b"", b"[1]"):
        worker.send_bytes(struct.pack("<Q", len(text)) + text)
        failed = worker.receive().header
        assert (failed["event"], failed["kind"], failed["id"]) == ("failed", "protocol", None)
    assert worker.is_serving()


def test_an_array_of_an_unknown_type_is_refused_with_the_request_it_came_in(
    worker: Worker,
) -> None:
    text = b'{"request": "echo", "id": 4, "arrays": [{"name": "a", "dtype": "O", "shape": [1]}]}'
    worker.send_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    (failed,) = worker.events_until_its_end()
    assert (failed["event"], failed["kind"], failed["id"]) == ("failed", "protocol", 4)


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, bytes(range(256))])
def test_garbage_on_stdin_ends_the_worker_with_a_message(worker: Worker, garbage: bytes) -> None:
    worker.send_bytes(garbage)
    (failed,) = worker.events_until_its_end()
    assert (failed["event"], failed["kind"], failed["id"]) == ("failed", "protocol", None)
    assert worker.process.returncode == 1


def test_random_garbage_between_requests_never_hangs_or_crashes_the_worker(
    environment: dict[str, str],
) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        with started(HOOKS, environment) as worker:
            worker.send({"request": "hello", "id": 1})
            worker.send_bytes(rng.bytes(200))
            assert worker.process.stdin is not None
            worker.process.stdin.close()
            headers = worker.events_until_its_end()
            assert [header["kind"] for header in headers if header["id"] is None] == ["protocol"]
            assert worker.process.returncode == 1


def test_an_id_in_use_is_refused_and_the_job_goes_on(worker: Worker) -> None:
    worker.send({"request": "slices", "id": 1, "count": 20, "wait_s": 0.02})
    worker.send({"request": "echo", "id": 1})
    headers = [worker.receive().header]
    while headers[-1]["event"] != "done":
        headers.append(worker.receive().header)
    (failed,) = [header for header in headers if header["event"] == "failed"]
    assert (failed["kind"], failed["id"]) == ("protocol", None)
    assert sum(header["event"] == "slice" for header in headers) == 20


def test_cancelling_an_unknown_or_finished_job_changes_nothing(worker: Worker) -> None:
    worker.send({"request": "cancel", "id": 1, "target": 99})
    worker.send({"request": "echo", "id": 2})
    assert worker.receive_last(2)["event"] == "done"
    worker.send({"request": "cancel", "id": 3, "target": 2})
    assert worker.is_serving()


def test_a_job_is_cancelled_while_it_runs_and_one_in_the_queue_before_it_starts(
    worker: Worker,
) -> None:
    worker.send({"request": "slices", "id": 1, "count": 1000, "wait_s": 0.01})
    worker.send({"request": "echo", "id": 2})
    while worker.receive().header["event"] != "slice":
        pass
    worker.send({"request": "cancel", "id": 3, "target": 2})
    queued = worker.receive_last(2)
    worker.send({"request": "cancel", "id": 4, "target": 1})
    running = worker.receive_last(1)
    for failed in (queued, running):
        assert (failed["event"], failed["kind"]) == ("failed", "cancelled")
    assert worker.is_serving()


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("input", "input"),
        ("memory", "resource"),
        ("torch memory", "resource"),
        ("bug", "bug"),
        ("unsendable answer", "protocol"),
    ],
)
def test_a_failure_is_one_event_with_kind_message_and_hint_and_the_worker_lives_on(
    worker: Worker, how: str, kind: str
) -> None:
    worker.send({"request": "fail", "id": 1, "how": how})
    failed = worker.receive_last(1)
    assert (failed["event"], failed["kind"]) == ("failed", kind)
    assert failed["message"]
    assert failed["hint"] or kind == "protocol"
    assert worker.is_serving()


def test_shutdown_and_the_end_of_stdin_end_an_idle_worker_at_once(
    environment: dict[str, str],
) -> None:
    for ending in ("shutdown", "end of stdin"):
        with started(HOOKS, environment) as worker:
            assert worker.is_serving()
            start = time.monotonic()
            if ending == "shutdown":
                worker.send({"request": "shutdown", "id": 2})
            else:
                assert worker.process.stdin is not None
                worker.process.stdin.close()
            assert worker.process.wait(timeout=5) == 0
            assert time.monotonic() - start < 1.0


def test_the_end_of_stdin_ends_a_worker_in_the_middle_of_a_job_even_one_that_hangs(
    environment: dict[str, str],
) -> None:
    for request in ({"request": "slices", "count": 10**6, "wait_s": 0.01}, {"request": "hang"}):
        with started(HOOKS, environment) as worker:
            worker.send({**request, "id": 1})
            pids = worker.receive().header.get("pids", [])
            assert worker.process.stdin is not None
            start = time.monotonic()
            worker.process.stdin.close()
            worker.process.wait(timeout=5)
            assert time.monotonic() - start < 2.0
            assert all(ends_within(pid, 1.0) for pid in pids), "what it had started goes on"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(
    "request_",
    [
        {"request": "hang", "new_session": True},
        {"request": "in_c"},
        {"request": "temporary"},
    ],
    ids=["child processes", "inside a library in C", "temporary files"],
)
def test_a_request_of_the_system_to_end_is_answered_at_once_and_nothing_is_left(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals, request_: dict[str, Any]
) -> None:
    with started(HOOKS, {**environment, "TMPDIR": str(tmp_path)}) as worker:
        worker.send({**request_, "id": 1})
        pids = worker.receive().header.get("pids", [])
        start = time.monotonic()
        worker.process.send_signal(number)
        assert worker.process.wait(timeout=10) == 128 + number
        assert time.monotonic() - start < 2.0
        assert all(ends_within(pid, 1.0) for pid in pids), "what it had started goes on"
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_the_worker_ends_when_the_program_that_started_it_is_killed(
    environment: dict[str, str],
) -> None:
    program = textwrap.dedent(
        f"""
        import time
        from OFLSAM2Core.worker.client import WorkerClient
        client = WorkerClient({HOOKS!r})
        client.start()
        client.request("slices", {{"count": 10**6, "wait_s": 0.01}})
        while not client.poll():
            time.sleep(0.01)
        print(client.pid, flush=True)
        time.sleep(1000)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(parent.pid, signal.SIGKILL)
        assert ends_within(pid, 2.0)


def test_the_worker_runs_at_a_lower_priority_unless_configured_otherwise(
    environment: dict[str, str],
) -> None:
    usual = os.nice(0)
    for extra, niceness in (([], usual + 5), (["--nice", "0"], usual)):
        with started([*PRODUCT, *extra], environment) as worker:
            assert worker.is_serving()
            assert psutil.Process(worker.process.pid).nice() == min(niceness, 19)
