"""The command line in processes of their own, quickly, and with things going wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fault import Ended, Fault

ROOT = Path(__file__).resolve().parents[2]


tried: Counter[str] = Counter()
"""Runs of this session, "with a fault" or "without"."""


class Programs:
    """Runs the command line; use as a context manager, once for many runs."""

    def __enter__(self) -> Programs:
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fault_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # More threads would not survive a fork.
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "Testing")]),
                "OMP_NUM_THREADS": "1",
            },
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        try:
            self._server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._server.kill()

    def run(
        self, *words: object, folder: Path, fault: Fault | None = None, limit_s: float = 60
    ) -> Ended:
        """`oflsam2 WORDS...` with `folder` as its current folder, and its logs in it."""
        assert self._server.stdin is not None and self._server.stdout is not None
        tried["without" if fault is None else "with a fault"] += 1
        request = {
            "words": [str(word) for word in words],
            "folder": str(folder),
            "fault": asdict(fault or Fault()),
            "limit_s": limit_s,
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))


def in_words(ended: Ended, codes: Sequence[int]) -> None:
    """A run that ended as it should: no crash, no hang, no traceback, nothing left."""
    assert not ended.hung, (ended.out, ended.err)
    assert ended.code in codes, (ended.code, ended.out, ended.err)
    assert "Traceback" not in ended.err and "Error:" not in ended.err, ended.err
    assert ended.left == []
    assert ended.temporary == []
