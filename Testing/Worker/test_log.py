"""The log file, written by a process of its own (logging is set up once a process)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from OFLSAM2Core.runtime.log import MAX_BYTES

PROGRAM = """
import logging, warnings
from OFLSAM2Core.runtime.log import start_log
path = start_log("program")
logging.getLogger("OFLSAM2Core.part").info("an information of ours")
logging.getLogger("other").info("an information of others")
logging.getLogger("other").warning("a warning of others")
warnings.warn("a Python warning")
print(path)
"""


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )


def test_the_file_gets_our_information_and_all_warnings_and_the_terminal_the_warnings(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = run(environment)
    path = tmp_path / "logs" / "program.log"
    assert done.stdout.strip() == str(path)
    text = path.read_text(encoding="utf-8")
    for sentence in ("an information of ours", "a warning of others", "a Python warning"):
        assert sentence in text
    assert "an information of others" not in text
    assert "a warning of others" in done.stderr and "an information" not in done.stderr


def test_runs_are_appended_until_the_file_is_large_and_the_one_before_is_kept(
    environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "logs" / "program.log"
    run(environment)
    first = path.read_text()
    run(environment)
    assert path.read_text().startswith(first) and len(path.read_text()) > len(first)
    path.write_text("x" * (MAX_BYTES + 1))
    run(environment)
    assert path.stat().st_size < 10_000
    assert (tmp_path / "logs" / "program.old.log").stat().st_size == MAX_BYTES + 1


def test_a_folder_that_cannot_be_written_is_a_warning(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = run({**environment, "OFLSAM2_LOG_DIR": str(tmp_path / "file")})
    assert done.stdout.strip() == "None"
    assert "There is no log file" in done.stderr
