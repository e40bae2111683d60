"""Processes that cannot reach a network, and tell what they tried.

An audit hook (`sitecustomize.py`, which Python imports before anything else) writes down and
refuses every connection and name lookup. It holds for processes that these start, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

HOOK = """
import json, os, sys, threading

RECORD = os.open(os.environ["SEALED_RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
           "socket.sendmsg", "urllib.Request", "http.client.connect", "ftplib.connect")
PROCESSES = ("os.fork", "os.forkpty", "subprocess.Popen", "os.posix_spawn", "os.system")

def hook(event, args):
    if event in PROCESSES or event in NETWORK:
        if event in NETWORK and args and getattr(args[0], "family", None) == 1:
            return  # A socket of this machine's own (AF_UNIX).
        line = json.dumps({"event": event, "what": repr(args)[:300]}) + "\\n"
        os.write(RECORD, line.encode())
    if event in NETWORK:
        raise ConnectionRefusedError("there is no network in this test")

sys.addaudithook(hook)
"""


@dataclass
class Ended:
    """How a sealed process ended.

    network, processes: what it tried of each, in order. left: processes of its session that live
    on. made: files in its home folder, relative.
    """

    returncode: int
    stdout: str
    stderr: str
    network: list[str]
    processes: list[str]
    left: list[str]
    made: set[str]


class Sealed:
    """A home folder of its own, and an environment for processes without a network."""

    def __init__(self, folder: Path) -> None:
        self._record = folder / "record.jsonl"
        self.home = folder / "home"
        self.home.mkdir()
        hooks = folder / "hooks"
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(textwrap.dedent(HOOK))
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("XDG_", "CI", "OFLSAM2_"))
        }
        self.environment = {
            **kept,
            "HOME": str(self.home),
            "USERPROFILE": str(self.home),
            "LOCALAPPDATA": str(self.home / "local"),
            "PYTHONPATH": os.pathsep.join([str(hooks), str(ROOT)]),
            "SEALED_RECORD": str(self._record),
        }

    def run(self, *command: str, timeout: float = 600, **environment: str) -> Ended:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environment, **environment},
            cwd=self.home,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            finally:
                process.kill()
        return self.ended(process.pid, process.returncode, out.decode(), err.decode())

    def ended(self, session: int, code: int, out: str = "", err: str = "") -> Ended:
        events = [json.loads(line) for line in self._lines()]
        tried = {
            kind: [f"{e['event']} {e['what']}" for e in events if (e["event"] in _PROCESSES) == own]
            for kind, own in (("network", False), ("processes", True))
        }
        files = {
            path.relative_to(self.home).as_posix()
            for path in self.home.rglob("*")
            if path.is_file()
        }
        return Ended(code, out, err, **tried, left=_of_session(session), made=files)

    def _lines(self) -> list[str]:
        return self._record.read_text().splitlines() if self._record.exists() else []


_PROCESSES = ("os.fork", "os.forkpty", "subprocess.Popen", "os.posix_spawn", "os.system")


def _of_session(session: int) -> list[str]:
    """Processes of a session that ended, after a moment in which they may end, too."""
    found: list[str] = []
    for _ in range(20):
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "status"]):
            try:
                if os.getsid(process.pid) == session and process.status() != "zombie":
                    found.append(" ".join(process.info["cmdline"] or ["?"]))
            except (ProcessLookupError, psutil.Error):
                continue
        if not found:
            break
        time.sleep(0.1)
    return found
