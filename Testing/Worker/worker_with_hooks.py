"""The real worker with further requests, which misbehave in ways a test can choose."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np

from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.runtime.temporary import temporary_folder
from OFLSAM2Core.worker import payloads, server
from OFLSAM2Core.worker.job import Answer, Job


def echo(job: Job) -> Answer:
    return Answer({"got": job.frame.header}, job.frame.arrays)


def print_noise(job: Job) -> Answer:
    """Everything that may write to stdout: Python, C, a subprocess, the descriptor itself."""
    print("from print")
    print("from the first stdout", file=sys.__stdout__, flush=True)
    os.write(1, b"from the descriptor\n")
    subprocess.run([sys.executable, "-c", "print('from a subprocess')"], check=True)
    libc = ctypes.CDLL(None)
    libc.puts(b"from C")
    libc.fflush(None)
    warnings.warn("from a warning", stacklevel=1)
    return Answer({"stdin_is_empty": sys.stdin.read() == ""})


def noise(job: Job) -> Answer:
    """More in the log than a pipe takes."""
    for _ in range(100):
        sys.stderr.write(10_000 * "x" + "\n")
    return Answer()


def slices(job: Job) -> Answer:
    """`count` slices of `size` x `size`, `wait_s` seconds apart."""
    count, size = job.take("count", int), job.take("size", int, 8)
    for index in range(count):
        job.on_progress(Progress("segment", index, count))
        labels = np.full((size, size), index % 256, np.uint8)
        result = SliceResult(index, 0, labels, 255 - labels, {"all": index / count})
        job.send("slice", *payloads.slice_to(result))
        time.sleep(job.take("wait_s", float, 0.0))
    return Answer({"slices": count})


def hang(job: Job) -> Answer:
    """Ignores Cancel, and has a child with a child of its own."""
    grandchild = "import time; time.sleep(1000)"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time;"
            f"p = subprocess.Popen([sys.executable, '-c', {grandchild!r}]);"
            "print(p.pid, flush=True); time.sleep(1000)",
        ],
        stdout=subprocess.PIPE,
        start_new_session=job.take("new_session", bool, False),
    )
    assert child.stdout is not None
    job.send("log", {"pids": [child.pid, int(child.stdout.readline())]})
    while True:
        time.sleep(1)


def in_c(job: Job) -> Answer:
    """Minutes inside a library in C, where Python's own handlers of signals wait."""
    job.send("log", {})
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)
    return Answer()


def temporary(job: Job) -> Answer:
    """Has a temporary folder that is not empty, and hangs."""
    with temporary_folder() as folder:
        (folder / "half.nii.gz").write_bytes(b"1")
        job.send("log", {})
        time.sleep(1000)
    return Answer()


def blob(job: Job) -> Answer:
    """`megabytes` of bytes, each the remainder of its place by 251."""
    return Answer(
        arrays={
            "blob": np.resize(np.arange(251, dtype=np.uint8), job.take("megabytes", int) * 10**6)
        }
    )


def fork(job: Job) -> Answer:
    """Has a child that holds both pipes and left the process group, and dies."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(write_end, str(os.getpid()).encode())
        time.sleep(1000)
        os._exit(0)
    job.send("log", {"pids": [int(os.read(read_end, 20))]})
    time.sleep(job.take("wait_s", float, 0.0))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def fail(job: Job) -> Answer:
    how = job.take("how", str)
    if how == "input":
        raise InputError("'scan.nii' is broken.", "Choose another.")
    if how == "memory":
        raise MemoryError
    if how == "torch memory":
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
    if how == "bug":
        return Answer({"value": 1 / 0})
    if how == "unsendable answer":
        return Answer({"value": object()})
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash":
        ctypes.string_at(0)
    if how == "exit":
        print("the last words", flush=True)
        os._exit(7)
    raise AssertionError(how)


server.handlers.update(
    {
        "blob": blob,
        "echo": echo,
        "fail": fail,
        "fork": fork,
        "hang": hang,
        "in_c": in_c,
        "noise": noise,
        "print_noise": print_noise,
        "slices": slices,
        "temporary": temporary,
    }
)
server.MAX_WAITING_BYTES = int(os.environ.get("TEST_MAX_WAITING_BYTES", server.MAX_WAITING_BYTES))
if __name__ == "__main__":
    server.main()
