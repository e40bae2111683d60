"""Cohorts on Dask workers, and what can go wrong with these: real processes, really killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from cohorts import Toy, write_cases
from dask_processes import Cluster
from test_cohort_run import states, wait_for

from OFLSAM2Core.cohort.manifest import read_manifest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")

TWO = ["--workers", "2"]


def pids(toy: Toy) -> list[int]:
    """Ids of the processes that began cases."""
    return [int(line.split()[1]) for line in toy.log.read_text().splitlines()]


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_a_case_whose_worker_is_killed_is_done_again_once_and_the_others_once_at_all(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "a", "deadly1", "killed1", "b")
    done = toy.cohort(cases, tmp_path / "out", *TWO)
    assert done.returncode == 3, done.stderr
    assert toy.begun() == {"a": 1, "b": 1, "killed1": 2, "deadly1": 2}
    assert states(tmp_path / "out") == {
        **{"a": "done", "b": "done"},
        **{"killed1": "done", "deadly1": "failed"},
    }
    failed = read_manifest(tmp_path / "out").cases["deadly1"]
    assert "worker process ended" in failed.reason
    assert "Traceback" not in done.stdout + done.stderr and "Warning" not in done.stderr


def test_every_worker_killed_is_borne_and_ctrl_c_leaves_nothing_behind(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", "held_a", "held_b", "held_c"), tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *TWO) as process:
        wait_for(lambda: len(toy.begun()) == 2)
        for pid in pids(toy):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: sum(toy.begun().values()) == 4)
        assert set(toy.begun().values()) == {2}
        started = children(process.pid)
        # As a terminal does: to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        printed, complained = process.communicate(timeout=120)
    assert process.returncode == 130, complained
    assert "Go on with --resume" in printed
    wait_for(lambda: not any(child.is_running() for child in started))
    assert set(states(out).values()) == {"waiting"}
    toy.release()
    assert toy.cohort_here(cases, out, "--resume").returncode == 0
    assert set(states(out).values()) == {"done"}


@pytest.mark.slow
def test_workers_end_with_a_run_that_was_killed(toy: Toy, tmp_path: Path) -> None:
    cases, out = write_cases(tmp_path / "in", "held_a"), tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, "--workers", "1") as process:
        wait_for(lambda: toy.begun()["held_a"])
        started = children(process.pid)
        process.kill()
        process.wait()
    wait_for(lambda: not any(child.is_running() for child in started))
    toy.release()
    assert toy.cohort_here(cases, out, "--resume").returncode == 0


@pytest.mark.slow
def test_a_scheduler_that_runs_somewhere_gets_cases_to_its_workers(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", "a", "b", "c"), tmp_path / "out"
    with Cluster(tmp_path, toy.environment) as cluster:
        workers = [cluster.add_worker(), cluster.add_worker()]
        done = toy.cohort(cases, out, "--scheduler", cluster.file)
        assert done.returncode == 0, done.stderr
        assert set(pids(toy)) <= {worker.pid for worker in workers}
        assert all(worker.poll() is None for worker in workers)  # They are not ours to end.
    assert toy.begun() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.slow
def test_a_scheduler_that_is_gone_in_mid_run_ends_it_and_resuming_goes_on(
    toy: Toy, tmp_path: Path
) -> None:
    cases, out = write_cases(tmp_path / "in", "a", "held_b"), tmp_path / "out"
    with Cluster(tmp_path, toy.environment) as cluster:
        cluster.add_worker()
        words = ["--task", toy.task, "--out", out, "--scheduler", cluster.file]
        with toy.start("cohort", cases, *words) as process:
            wait_for(lambda: toy.begun()["held_b"])
            cluster.scheduler.kill()
            _, complained = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "scheduler is gone" in complained and "--resume" in complained
    assert "Traceback" not in complained
    assert states(out) == {"a": "done", "held_b": "waiting"}
    toy.release()
    assert toy.cohort_here(cases, out, "--resume").returncode == 0
    assert toy.begun() == {"a": 1, "held_b": 2}


@pytest.mark.slow
def test_workers_that_are_gone_for_good_end_the_run(toy: Toy, tmp_path: Path) -> None:
    cases, out = write_cases(tmp_path / "in", "held_a"), tmp_path / "out"
    with Cluster(tmp_path, toy.environment) as cluster:
        worker = cluster.add_worker()
        words = ["--scheduler", cluster.file, "--worker-wait", "3"]
        with toy.start("cohort", cases, "--task", toy.task, "--out", out, *words) as process:
            wait_for(lambda: toy.begun()["held_a"])
            worker.kill()
            printed, complained = process.communicate(timeout=120)
    assert process.returncode == 2 and "no worker for 3 s" in complained
    assert states(out) == {"held_a": "waiting"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("raise ImportError", "has no package oflsam2"),
        ("__version__ = '0.0.1'", "it has oflsam2 0.0.1, not "),
    ],
)
def test_workers_without_the_package_or_of_another_version_get_no_case(
    toy: Toy, tmp_path: Path, package: str, message: str
) -> None:
    cases = write_cases(tmp_path / "in", "a")
    other = tmp_path / "other" / "OFLSAM2Core"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text(package)
    with Cluster(tmp_path, toy.environment) as cluster:
        cluster.add_worker(PYTHONPATH=str(other.parent))
        words = ["--scheduler", cluster.file]
        refused = toy.cohort(cases, tmp_path / "out", *words)
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr
        cluster.add_worker()
        wait_for(lambda: cluster.count_workers() == 2)
        done = toy.cohort(cases, tmp_path / "out", *words, "--resume")
        assert done.returncode == 0, done.stderr
    assert toy.begun() == {"a": 1}


def test_a_scheduler_that_does_not_answer_is_named(toy: Toy, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "in", "a")
    for address, message in (
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1' does not answer"),
        ("ftp:/nonsense", "ftp:/nonsense"),
    ):
        refused = toy.cohort(cases, tmp_path / "out", "--scheduler", address, "--resume")
        assert refused.returncode == 2 and message in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    assert states(tmp_path / "out") == {"a": "waiting"}


def test_without_dask_one_process_does_the_work_and_more_are_refused_with_what_to_install(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", "a")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("distributed", "dask"):
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})")
    path = f"{hidden}{os.pathsep}{toy.environment['PYTHONPATH']}"
    words = ["cohort", cases, "--task", toy.task, "--out", tmp_path / "out", "--resume"]
    refused = toy.run(*words, PYTHONPATH=path)
    assert refused.returncode == 2 and '".[cohort]"' in refused.stderr, refused.stderr
    assert not (tmp_path / "out").exists()
    done = toy.run(*words, "--workers", "0", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_hundred_cases_are_all_done_none_twice_and_memory_stays_flat(
    toy: Toy, tmp_path: Path
) -> None:
    cases = write_cases(tmp_path / "in", *(f"case{number:03d}" for number in range(200)))
    out = tmp_path / "out"
    with toy.start("cohort", cases, "--task", toy.task, "--out", out, *TWO) as process:
        # A worker is killed now and then, and the run itself once.
        for at in (30, 60):
            wait_for(lambda at=at: len(toy.begun()) >= at)
            os.kill(pids(toy)[-1], signal.SIGKILL)
        wait_for(lambda: len(toy.begun()) >= 100)
        process.kill()
        process.wait()
    time.sleep(1)
    assert toy.cohort(cases, out, *TWO, "--resume").returncode == 0
    records = read_manifest(out).cases
    assert len(records) == 200 and {record.state for record in records.values()} == {"done"}
    assert {record.times_segmented for record in records.values()} == {1}
    assert sum(toy.begun().values()) <= 200 + 6  # At most those that were in work at a kill.
    assert len(list(out.glob("*.seg.nrrd"))) == 200
    order = list(read_manifest(out).events)
    peaks = [event["details"]["peak_memory_mb"] for event in order if event.get("state") == "done"]
    second_run = peaks[-90:]
    assert sum(second_run[-20:]) / 20 < sum(second_run[10:30]) / 20 + 30
