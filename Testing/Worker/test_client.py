"""The client and a real worker process: what a panel relies on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from worker_commands import HOOKS

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError, ResourceError
from OFLSAM2Core.worker import payloads
from OFLSAM2Core.worker.client import Event, WorkerClient
from OFLSAM2Core.worker.protocol import Frame, ProtocolError


def first(client: WorkerClient, name: str, timeout: float = 10.0) -> Event:
    """The first event of that name; those before it are dropped."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for event in client.poll(timeout=0.1):
            if event.name == name:
                return event
    raise AssertionError(f"no '{name}' within {timeout} s")


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def all_gone(pids: Iterable[int | None], within_s: float = 0.4) -> bool:
    """Whether the processes have ended; the system takes a moment to carry out a kill."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if all(pid is not None and is_gone(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def wait_until_dead(client: WorkerClient) -> None:
    deadline = time.monotonic() + 5
    while client.alive:
        assert time.monotonic() < deadline, "its death was not noticed"
        time.sleep(0.01)


def test_volumes_support_cases_and_slices_come_out_as_they_went_in() -> None:
    rng = np.random.default_rng(0)
    structures = (Structure("Ä", 1, (1.0, 0.5, 0.25), "SCT~SCT^1^a~SCT^2^b~^^"), Structure("b", 7))
    cases = []
    for number in range(3):
        image = rng.integers(0, 99, (4, 5, 6)).astype(np.int16)
        labels = rng.integers(0, 2, (4, 5, 6)).astype(np.uint8)
        others = [
            Volume(image[1:] + n, rng.normal(size=(4, 4)), f"case {number}, {n}")
            for n in range(number)
        ]
        volume = Volume(image, rng.normal(size=(4, 4)), f"case {number}", further=tuple(others))
        cases.append(SupportCase(volume, labels, structures))
    for one, other in zip(
        cases, payloads.support_from(Frame(*payloads.support_to(cases))), strict=True
    ):
        np.testing.assert_array_equal(one.volume.array, other.volume.array)
        np.testing.assert_array_equal(one.volume.affine, other.volume.affine)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.structures == other.structures and one.name == other.name
        for further, same in zip(one.volume.further, other.volume.further, strict=True):
            np.testing.assert_array_equal(further.array, same.array)
            np.testing.assert_array_equal(further.affine, same.affine)
            assert further.name == same.name
    plane = rng.integers(0, 9, (5, 6)).astype(np.uint8)
    result = SliceResult(3, 1, plane, plane + 1, {"Ä": 0.5}, 2)
    back = payloads.slice_from(*payloads.slice_to(result))
    assert (back.index, back.axis, back.scores, back.revision) == (3, 1, {"Ä": 0.5}, 2)
    np.testing.assert_array_equal(back.labels, plane)
    np.testing.assert_array_equal(back.confidence, plane + 1)


def test_a_large_volume_goes_there_and_back_while_the_caller_is_hardly_held_up(
    client: WorkerClient,
) -> None:
    volume = np.random.default_rng(0).integers(-1000, 3000, (200, 512, 512), dtype=np.int16)
    client.wait(client.request("echo"))  # hello would import PyTorch
    start = time.thread_time()  # of this thread's own: others may be busy
    job = client.request("echo", {"x": 1}, {"image": volume[::-1]})
    assert time.thread_time() - start < 0.05
    done = client.wait(job, timeout=60)
    np.testing.assert_array_equal(done.arrays["image"], volume[::-1])


def test_all_events_of_a_job_come_once_and_in_order_and_the_last_is_its_end(
    client: WorkerClient,
) -> None:
    events: list[Event] = []
    job = client.request("slices", {"count": 300})
    assert client.wait(job, events.append).name == "done"
    slices = [event.slice_result() for event in events if event.name == "slice"]
    assert [result.index for result in slices] == list(range(300))
    assert all((result.labels == result.index % 256).all() for result in slices)
    assert [event.is_last for event in events] == [False] * (len(events) - 1) + [True]
    assert {event.id for event in events} == {job}
    assert client.poll() == []


def test_progress_of_a_quick_loop_is_thinned_out(client: WorkerClient) -> None:
    events: list[Event] = []
    start = time.monotonic()
    client.wait(client.request("slices", {"count": 300}), events.append)
    progress = [event for event in events if event.name == "progress"]
    assert 1 <= len(progress) <= 2 + (time.monotonic() - start) / 0.05


def test_jobs_are_worked_on_one_after_the_other(client: WorkerClient) -> None:
    jobs = [client.request("slices", {"count": 10}) for _ in range(5)]
    order: list[Any] = []
    client.wait(jobs[-1], lambda event: order.append(event.id))
    assert [job for job in dict.fromkeys(order)] == jobs
    assert order == sorted(order)


def test_what_cannot_be_sent_is_refused_in_the_callers_thread_and_leaves_no_trace(
    client: WorkerClient,
) -> None:
    with pytest.raises(ProtocolError):
        client.request("echo", {"x": object()})
    with pytest.raises(ProtocolError):
        client.request("echo", {}, {"a": np.array([object()])})
    assert client.wait(client.request("echo")).name == "done"


def test_a_cancelled_job_ends_at_once_and_the_slices_that_came_are_kept(
    client: WorkerClient,
) -> None:
    pid = client.pid
    job = client.request("slices", {"count": 10**6, "wait_s": 0.01})
    events = [first(client, "slice")]
    start = time.monotonic()
    client.cancel(job)
    failed = client.wait(job, events.append)
    assert time.monotonic() - start < 0.5
    assert (failed.name, failed.header["kind"]) == ("failed", "cancelled")
    indices = [event.slice_result().index for event in events if event.name == "slice"]
    assert indices == list(range(indices[0], indices[0] + len(indices)))
    assert client.wait(client.hello()).name == "ready"
    assert client.pid == pid, "the warm worker was lost"


@pytest.mark.parametrize("new_session", [False, True])
def test_a_job_that_hangs_is_ended_with_all_its_descendants_after_the_grace_time(
    client: WorkerClient, new_session: bool
) -> None:
    job = client.request("hang", {"new_session": new_session})
    pids = [client.pid, *first(client, "log").header["pids"]]
    assert not any(is_gone(pid) for pid in pids if pid)
    start = time.monotonic()
    client.cancel(job, grace_s=2.0)
    assert time.monotonic() - start < 0.2, "cancel blocked"
    failed = client.wait(job, timeout=5)
    assert failed.header["kind"] == "cancelled"
    assert all_gone(pids)
    assert time.monotonic() - start < 2.5
    assert client.poll() == []
    client.start()
    assert client.wait(client.hello()).name == "ready"


def test_jobs_waiting_behind_one_that_hangs_fail_because_the_worker_is_gone(
    client: WorkerClient,
) -> None:
    hanging = client.request("hang")
    waiting = client.request("echo")
    first(client, "log")
    client.cancel(hanging, grace_s=0.1)
    kinds = {}
    client.wait(waiting, lambda event: kinds.update({event.id: event.header["kind"]}))
    assert kinds == {hanging: "cancelled", waiting: "died"}


@pytest.mark.parametrize(
    ("how", "words"),
    [("killed", "memory ran out"), ("crash", "signal 11"), ("exit", "exit code 7")],
)
def test_a_worker_that_dies_is_noticed_at_once_reported_in_words_and_can_be_started_again(
    client: WorkerClient, how: str, words: str
) -> None:
    client.wait(client.request("echo"))  # hello would import PyTorch
    start = time.monotonic()
    job = client.request("fail", {"how": how})
    failed = client.wait(job, timeout=5)
    assert time.monotonic() - start < 1.5
    assert (failed.name, failed.header["kind"]) == ("failed", "died")
    assert words in failed.header["message"]
    assert failed.header["log"] == client.last_log_lines()
    if how == "exit":
        assert failed.header["log"][-1] == "the last words"
    if how == "crash":
        assert any("Segmentation fault" in line for line in failed.header["log"])
    assert client.poll() == [], "more than one message"
    assert not client.alive
    with pytest.raises(ResourceError):
        client.hello()
    client.start()
    assert client.wait(client.hello()).name == "ready"


def test_a_worker_killed_while_idle_gives_one_event_that_belongs_to_no_request(
    client: WorkerClient,
) -> None:
    client.wait(client.request("echo"))  # hello would import PyTorch
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    wait_until_dead(client)
    (event,) = client.poll(timeout=1.0)
    assert (event.name, event.id, event.header["kind"]) == ("failed", None, "died")


def test_closing_ends_the_worker_and_says_nothing_and_it_can_be_started_again(
    client: WorkerClient,
) -> None:
    for request in ({}, {"request": "slices", "count": 10**6, "wait_s": 0.01}):
        client.start()
        client.wait(client.hello())
        pid = client.pid
        assert pid is not None
        if request:
            client.request("slices", request)
        start = time.monotonic()
        client.close()
        assert time.monotonic() - start < 2.0
        assert is_gone(pid) and not client.alive
        assert not [event for event in client.poll() if event.is_last]


def test_closing_a_worker_that_hangs_kills_it_and_its_descendants(client: WorkerClient) -> None:
    client.request("hang")
    pids = [client.pid, *first(client, "log").header["pids"]]
    start = time.monotonic()
    client.close(timeout_s=0.3)
    assert time.monotonic() - start < 2.0
    assert all_gone(pids)


def test_a_program_that_ends_without_closing_leaves_no_worker_behind(
    environment: dict[str, str],
) -> None:
    program = textwrap.dedent(
        f"""
        from OFLSAM2Core.worker.client import WorkerClient
        client = WorkerClient({HOOKS!r})
        client.start()
        job = client.request("hang")
        while not (events := client.poll(timeout=1)):
            pass
        print(client.pid, *events[0].header["pids"])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        timeout=20,
        check=True,
    )
    assert done.stderr == ""
    assert all_gone([int(pid) for pid in done.stdout.split()])


def test_a_command_that_does_not_exist_is_an_input_error_that_names_it() -> None:
    with pytest.raises(InputError, match="no-such-command"):
        WorkerClient(["no-such-command"]).start()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('Welcome to this host!' * 10)", "not understood"),
        ("raise SystemExit('No module named OFLSAM2Core')", "exit code 1"),
    ],
)
def test_a_command_that_is_no_worker_is_a_failure_in_words_with_what_it_printed(
    environment: dict[str, str], code: str, message: str
) -> None:
    client = WorkerClient([sys.executable, "-c", code], env=environment)
    client.start()
    try:
        failed = client.wait(client.hello(), timeout=5)
    except ResourceError:  # it was gone before it was asked
        (failed,) = client.poll()
    assert failed.header["kind"] == "died"
    assert message in failed.header["message"]
    if "SystemExit" in code:
        assert failed.header["log"] == ["No module named OFLSAM2Core"]


def test_a_worker_behind_another_program_such_as_ssh_is_ended_with_it(
    environment: dict[str, str],
) -> None:
    """A shell stands in for ssh: the worker is its child, and the frames pass through."""
    client = WorkerClient(["/bin/sh", "-c", f"{' '.join(HOOKS)}; true"], env=environment)
    client.start()
    job = client.request("hang")
    pids = [client.pid, *first(client, "log").header["pids"]]
    children = [child.pid for child in psutil.Process(client.pid).children(recursive=True)]
    client.cancel(job, grace_s=0.1)
    assert client.wait(job, timeout=5).header["kind"] == "cancelled"
    assert all_gone([*pids, *children])


def test_without_psutil_the_process_group_is_killed(
    client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    job = client.request("hang")
    pids = [client.pid, *first(client, "log").header["pids"]]
    client.cancel(job, grace_s=0.1)
    client.wait(job, timeout=5)
    monkeypatch.undo()
    assert all_gone(pids)


def test_the_log_is_passed_on_line_by_line_and_only_its_end_is_kept(
    environment: dict[str, str],
) -> None:
    lines: list[str] = []
    code = r"import sys; sys.stderr.write('a 1%\ra 2%\n' + 'x\n' * 2000 + 'ä end')"
    client = WorkerClient([sys.executable, "-c", code], env=environment, log=lines.append)
    client.start()
    wait_until_dead(client)
    assert lines[:3] == ["a 1%", "a 2%", "x"] and lines[-1] == "ä end" and len(lines) == 2003
    assert client.last_log_lines(2) == ["x", "ä end"]
    assert len(client.last_log_lines(10**6)) == 500


def test_the_client_needs_neither_torch_nor_simpleitk_nor_qt(environment: dict[str, str]) -> None:
    program = (
        "import sys, OFLSAM2Core.worker.client as c;"
        "heavy = {'torch', 'SimpleITK', 'openvino', 'scipy', 'qt', 'psutil'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=20)


def test_a_log_folder_that_cannot_be_written_does_not_stop_the_worker(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    client = WorkerClient(HOOKS, env={**environment, "OFLSAM2_LOG_DIR": str(tmp_path / "file")})
    client.start()
    assert client.wait(client.hello(), timeout=10).name == "ready"
    client.close()
