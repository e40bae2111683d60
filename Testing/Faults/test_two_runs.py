"""Two runs at once that would write the same output."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from fault import Ended
from programs import Programs, in_words
from quick_runs import METHOD, segment

pytestmark = pytest.mark.slow


def test_the_second_is_refused_and_the_first_goes_on(
    programs: Programs, data: Path, task: Path, tmp_path: Path
) -> None:
    first: list[Ended] = []
    words = segment(data, task, "--overwrite", "--set")
    with Programs() as others:
        in_words(others.run("methods", folder=tmp_path, limit_s=120), [0])
        slow = threading.Thread(
            target=lambda: first.append(others.run(*words, "wait=0.5", folder=tmp_path))
        )
        slow.start()
        time.sleep(3)
        second = programs.run(*words, "wait=0", folder=tmp_path)
        assert slow.is_alive()
        slow.join()
    in_words(second, [2])
    assert "Another process is writing" in second.err
    in_words(first[0], [0])


def test_one_run_after_the_other_is_not(programs: Programs, data: Path, tmp_path: Path) -> None:
    words = ["evaluate", data, "--out", "report", "--overwrite", *METHOD]
    for _ in range(2):
        in_words(programs.run(*words, folder=tmp_path), [0])
