"""What goes between a program and its worker, under conditions that are not kind."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from worker_commands import HOOKS

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.worker.client import Event, WorkerClient
from OFLSAM2Core.worker.protocol import write_frame

TURN_S = 0.015  # what a panel gives to its worker in one turn of its event loop
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@contextmanager
def started(environment: dict[str, str], **fields: object) -> Iterator[WorkerClient]:
    client = WorkerClient(HOOKS, env=environment, **fields)  # type: ignore[arg-type]
    client.start()
    try:
        client.wait(client.request("echo"), timeout=30)  # not hello, which imports PyTorch
        yield client
    finally:
        client.close(timeout_s=0.5)


def hold_lock() -> None:
    """As Slicer's event loop between two calls of Python: no other Python thread runs."""
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(30)
    else:
        ctypes.PyDLL(None).usleep(30_000)


def turns_until_last(client: WorkerClient, on_event: Callable[[Event], None]) -> list[float]:
    """Seconds of this thread that each turn took, until a request is over."""
    turns = []
    over = False
    while not over and len(turns) < 2000:
        began, end = time.thread_time(), time.monotonic() + TURN_S
        while (event := client.next_event(max(0.0, end - time.monotonic()))) is not None:
            on_event(event)
            over |= event.is_last
            if time.monotonic() > end:
                break
        turns.append(time.thread_time() - began)
        hold_lock()
    return turns


def processes_that_share_memory(environment: dict[str, str]) -> set[int]:
    """Ids of processes that this test started, which have its log folder in their environment."""
    found = set()
    mark = environment["OFLSAM2_LOG_DIR"].encode()
    for process in psutil.process_iter():
        try:
            folder = Path(f"/proc/{process.pid}")
            is_ours = mark in (folder / "environ").read_bytes()
            if is_ours and "memfd:oflsam2" in (folder / "maps").read_text():
                found.add(process.pid)
        except OSError:
            continue
    return found


def gone(pids: list[int], within_s: float = 10.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        alive = [pid for pid in pids if psutil.pid_exists(pid)]
        if all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in alive):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("share_memory", [True, False])
def test_arrays_arrive_as_they_were_sent_through_memory_and_through_the_pipe(
    environment: dict[str, str], share_memory: bool
) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "volume": rng.integers(-9, 9, (50, 512, 512), np.int16)[:, ::-1],
        "large": np.resize(np.arange(251, dtype=np.uint8), 70 * 2**20),
        "small": np.float64(3.5) * np.ones(3),
        "empty": np.zeros((0, 4), np.uint8),
        "big-endian": np.arange(9000, dtype=">i4"),
    }
    with started(environment, share_memory=share_memory) as client:
        assert client.shares_memory is share_memory
        for _ in range(2):
            done = client.wait(client.request("echo", {}, arrays), timeout=60)
            for name, sent in arrays.items():
                np.testing.assert_array_equal(done.arrays[name], sent)


# A thread that reads gets 64 KiB a turn of such a loop: 2000 turns for the task, 1600 for slices.
# On a quiet machine it takes 6 and 20; benchmark_panel.py measures seconds.
MANY_TURNS = 300


def test_a_task_of_130_mb_arrives_within_a_few_turns_of_an_event_loop_that_holds_the_lock(
    environment: dict[str, str],
) -> None:
    with started(environment) as client:
        blobs = []
        client.request("blob", {"megabytes": 130})
        turns = turns_until_last(client, lambda event: blobs.append(event.arrays.get("blob")))
        assert len(turns) < MANY_TURNS
        assert max(turns) < 0.05
        assert blobs[-1].nbytes == 130 * 10**6
        assert (blobs[-1][::251] == 0).all() and (blobs[-1][250::251] == 250).all()


def test_200_slices_arrive_within_a_few_turns_of_an_event_loop_that_holds_the_lock(
    environment: dict[str, str],
) -> None:
    with started(environment) as client:
        indices: list[int] = []

        def note(event: Event) -> None:
            if event.name == "slice":
                result = event.slice_result()
                assert (result.labels == result.index % 256).all()
                indices.append(result.index)

        client.request("slices", {"count": 200, "size": 512})
        turns = turns_until_last(client, note)
        assert indices == list(range(200))
        assert len(turns) < MANY_TURNS
        assert max(turns) < 0.05


def test_through_the_pipe_a_turn_stays_short_and_everything_arrives(
    environment: dict[str, str],
) -> None:
    with started(environment, share_memory=False) as client:
        blobs = []
        client.request("blob", {"megabytes": 30})
        turns = turns_until_last(client, lambda event: blobs.append(event.arrays.get("blob")))
        assert max(turns) < 0.05
        assert blobs[-1].nbytes == 30 * 10**6 and (blobs[-1][::251] == 0).all()


def test_sending_a_large_volume_takes_short_turns_too(environment: dict[str, str]) -> None:
    volume = np.zeros((200, 512, 512), np.int16)[:, :, ::-1]
    for share_memory in (True, False):
        with started(environment, share_memory=share_memory) as client:
            began = time.thread_time()
            client.request("echo", {}, {"image": volume})
            assert time.thread_time() - began < 0.05
            assert max(turns_until_last(client, lambda event: None)) < 0.05


def test_a_worker_of_an_earlier_version_is_answered_through_the_pipe(
    environment: dict[str, str],
) -> None:
    program = textwrap.dedent(
        """
        import io
        from OFLSAM2Core.worker.protocol import read_frame, write_frame
        requests, events = io.FileIO(0), io.FileIO(1, "w")
        while (frame := read_frame(requests)) is not None:
            if "id" in frame.header:
                answer = {"event": "done", "id": frame.header["id"]}
                write_frame(events, answer, frame.arrays)
            else:
                answer = {"event": "failed", "id": None, "kind": "protocol", "message": "No id."}
                write_frame(events, answer)
        """
    )
    client = WorkerClient([sys.executable, "-c", program], env=environment)
    client.start()
    image = np.arange(10**6, dtype=np.int32)
    events: list[Event] = []
    done = client.wait(client.request("echo", {}, {"image": image}), events.append, timeout=20)
    np.testing.assert_array_equal(done.arrays["image"], image)
    assert [event.name for event in events] == ["done"], "the question is not the program's"
    assert client.shares_memory is False
    client.close()


@contextmanager
def program_running(text: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program of its own that uses a worker."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


@linux
@pytest.mark.parametrize("victims", ["program", "worker", "both"])
def test_whichever_side_is_killed_in_whatever_moment_nothing_is_left(
    environment: dict[str, str], tmp_path: Path, victims: str
) -> None:
    text = f"""
        import numpy as np, sys
        from OFLSAM2Core.errors import ResourceError
        from OFLSAM2Core.worker.client import WorkerClient
        client = WorkerClient({HOOKS!r})
        client.start()
        image = np.zeros(50 * 2**20, np.uint8)
        print(client.pid, flush=True)
        name = ""
        while name != "failed":
            try:
                name = client.wait(client.request("echo", {{}}, {{"image": image}})).name
            except ResourceError:
                name = "failed"
            print(name, flush=True)
        sys.stdin.read()
        """
    rng = np.random.default_rng(0)
    for number in range(4):
        with program_running(text, {**environment, "TMPDIR": str(tmp_path)}) as program:
            pid = int(line_of(program))
            if number:  # the first is killed while the worker starts
                assert line_of(program) == "done"
            time.sleep(rng.random() * 0.2)
            if victims != "worker":
                os.kill(program.pid, signal.SIGKILL)
            if victims != "program":
                os.kill(pid, signal.SIGKILL)
            if victims == "worker":
                while line_of(program) != "failed":
                    assert program.poll() is None
                assert processes_that_share_memory(environment) == set()
            assert gone([pid])
        assert processes_that_share_memory(environment) == set()
        assert list(tmp_path.glob("oflsam2-*")) == []


@linux
def test_without_memory_files_an_unlinked_file_is_shared_and_nothing_is_left_either(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    text = f"""
        import os
        del os.memfd_create
        from OFLSAM2Core.worker.client import WorkerClient
        client = WorkerClient({HOOKS!r})
        client.start()
        client.wait(client.request("echo"))
        print(client.pid, client.shares_memory, flush=True)
        while True:
            client.wait(client.request("blob", {{"megabytes": 20}}))
        """
    with program_running(text, {**environment, "TMPDIR": str(folder)}) as program:
        pid, shares = line_of(program).split()
        assert shares == "True"
        mapped = Path(f"/proc/{pid}/maps").read_text().splitlines()
        assert any(str(folder) in line and line.endswith("(deleted)") for line in mapped)
        assert list(folder.iterdir()) == []
        os.kill(program.pid, signal.SIGKILL)
        assert gone([int(pid)])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("busy_with", ["slices", "noise", "nothing"])
def test_a_worker_whose_output_and_log_nobody_reads_ends_when_its_input_closes(
    environment: dict[str, str], busy_with: str
) -> None:
    with subprocess.Popen(
        HOOKS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=environment,
    ) as worker:
        assert worker.stdin is not None
        try:
            if busy_with != "nothing":
                fields = {"request": busy_with, "id": 0, "count": 99, "size": 512}
                write_frame(worker.stdin, fields)
            for number in range(1, 500):  # their refusals are more than the pipe takes
                write_frame(worker.stdin, {"request": "no such request", "id": number})
            time.sleep(0.5)
            worker.stdin.close()
            worker.wait(timeout=10)
        finally:
            worker.kill()


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_a_killed_worker_is_noticed_at_once_although_a_child_holds_its_pipes(
    environment: dict[str, str],
) -> None:
    with started(environment) as client:
        events: list[Event] = []
        job = client.request("fork", {"wait_s": 0.3})
        failed = client.wait(job, events.append, timeout=8)
        (child,) = next(event for event in events if event.name == "log").header["pids"]
        try:
            assert failed.header["kind"] == "died" and "memory ran out" in failed.header["message"]
            assert psutil.pid_exists(child), "it was to hold the pipes"
        finally:
            os.kill(child, signal.SIGKILL)


def test_requests_that_wait_are_bounded_in_bytes_and_what_is_too_much_is_refused_in_words(
    environment: dict[str, str],
) -> None:
    environment = {**environment, "TEST_MAX_WAITING_BYTES": str(30 * 2**20)}
    image = np.ones(10 * 2**20, np.uint8)
    for share_memory in (True, False):
        with started(environment, share_memory=share_memory) as client:
            busy = client.request("slices", {"count": 1000, "wait_s": 0.01})
            jobs = [client.request("echo", {}, {"image": image}) for _ in range(8)]
            ends: dict[int | None, Event] = {}
            while len(ends) < len(jobs) - 2:
                ends.update((one.id, one) for one in client.poll(timeout=1) if one.is_last)
            client.cancel(busy)
            while not set(jobs) <= set(ends):
                ends.update((one.id, one) for one in client.poll(timeout=1) if one.is_last)
            kinds = [ends[job].header.get("kind", "done") for job in jobs]
            assert kinds == ["done"] * 2 + ["resource"] * 6
            assert "wait for the worker" in ends[jobs[-1]].header["message"]
            assert ends[jobs[-1]].header["hint"]
            np.testing.assert_array_equal(ends[jobs[0]].arrays["image"], image)
            one = client.wait(client.request("echo", {}, {"image": np.ones(40 * 2**20, bool)}))
            assert one.name == "done", "one alone may be as large as it must"


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory the way Linux does")
@pytest.mark.parametrize("share_memory", [True, False])
def test_a_volume_that_needs_more_memory_than_there_is_is_refused_before_it_is_taken_in(
    environment: dict[str, str], share_memory: bool
) -> None:
    many_slices = Volume(np.zeros((3000, 80, 80), np.uint8), np.eye(4), "many slices")
    labels = np.zeros(many_slices.grid_shape, np.uint8)
    support = SupportCase(many_slices, labels, (Structure("organ", 1),))
    no_task = np.zeros(8, np.uint8)
    with started(environment, share_memory=share_memory) as client:
        assert client.pid is not None
        used = psutil.Process(client.pid).memory_info().vms
        for free, send in (
            (3 * 10**9, lambda: client.segment(many_slices, task=no_task)),
            (5 * 10**8, lambda: client.learn([support], return_task=True)),
        ):
            resource.prlimit(client.pid, resource.RLIMIT_AS, (used + free, -1))
            events: list[Event] = []
            failed = client.wait(send(), events.append, timeout=30)
            assert failed.header["kind"] == "resource"
            assert re.search(r"needs about .* of memory; .* are free", failed.header["message"])
            assert not any(event.name == "progress" for event in events), "no job had begun"
        resource.prlimit(client.pid, resource.RLIMIT_AS, (-1, -1))
        assert client.wait(client.hello(), timeout=30).name == "ready"


def test_a_request_that_was_not_sent_yet_is_cancelled_without_the_worker(
    environment: dict[str, str],
) -> None:
    image = np.zeros(100 * 2**20, np.uint8)
    with started(environment) as client:
        first = client.request("echo", {}, {"image": image})
        second = client.request("echo", {}, {"image": image})
        client.cancel(second)
        events: list[Event] = []
        assert client.wait(first, events.append, timeout=30).name == "done"
        kinds = {event.id: event.header.get("kind") for event in events if event.is_last}
        assert kinds == {second: "cancelled", first: None}
