"""Logs are for their owner's eyes, and name no patient, file or series."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.runtime.redaction import keep_out, redacted
from OFLSAM2Core.worker.client import WorkerClient

NAMES = ("DOE", "JANE", "Doe", "Jane", "Schädel", "1957")

PROGRAM = """
import logging, warnings
from OFLSAM2Core.runtime.log import start_log
from OFLSAM2Core.runtime.redaction import keep_out

keep_out(["/data/DOE JANE/1957/Schädel nativ.nii.gz"])
print(start_log("program"))
log = logging.getLogger("OFLSAM2Core.part")
log.warning("'DOE^JANE' is larger than the support volumes")
log.warning("/data/DOE JANE/1957/Schädel nativ.nii.gz: not the weights")
log.warning("choose one:\\n  1.2.840.1 CT Schädel DOE")
logging.getLogger("other").warning("cannot open /mnt/DOE/x, C:\\\\JANE\\\\x.dcm, JANE.nii.gz")
warnings.warn("Schädel nativ is odd")
try:
    try:
        open("/data/DOE JANE.nii")
    except OSError as error:
        raise RuntimeError("the place in 'DOE^JANE' that is wrong") from error
except RuntimeError:
    log.info("ended: it was /x/JANE", exc_info=True)
"""


def logged(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.log"))


def nobody_named(text: str) -> None:
    assert text
    assert [name for name in NAMES if name in text] == [], text


def test_a_log_file_says_what_happened_where_and_names_nobody(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "OFLSAM2_LOG_DIR": str(tmp_path / "logs"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    text = logged(tmp_path / "logs")
    nobody_named(text)
    nobody_named(done.stderr.decode())  # Without a terminal of its own, stderr is a log, too.
    assert "is larger than the support volumes" in text
    assert "FileNotFoundError" in text and "RuntimeError: the place in <...> that is wrong" in text
    assert "<string>:18 in <module>" in text


@pytest.mark.skipif(os.name != "posix", reason="files have owners' permissions on POSIX")
def test_a_log_file_is_its_owners_also_where_it_was_there_before(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "program.log").write_text("")
    (folder / "program.log").chmod(0o644)
    for place in (folder, tmp_path / "new" / "logs"):
        environment = {**os.environ, "OFLSAM2_LOG_DIR": str(place), "PYTHONIOENCODING": "utf-8"}
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=30)
        assert stat.S_IMODE((place / "program.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new" / "logs").stat().st_mode) == 0o700


def test_the_workers_log_names_no_case_of_a_request_that_fails(
    environment: dict[str, str], tmp_path: Path
) -> None:
    client = WorkerClient(env=environment)
    client.start()
    volume = Volume(np.zeros((4, 8, 8)), np.eye(4), "DOE JANE Schädel nativ 1957")
    empty = SupportCase(volume, np.zeros((4, 8, 8), np.uint8), (Structure("liver", 1),))
    task = tmp_path / "DOE JANE.oflsam2"
    try:
        failures = [
            client.wait(client.learn([empty], task_path=task), timeout=120),
            client.wait(client.segment(volume, task_path=task), timeout=120),
        ]
    finally:
        client.close()
    # The one at the screen is told which case it was.
    assert all(failed.name == "failed" and "DOE JANE" in str(failed.header) for failed in failures)
    nobody_named(logged(tmp_path / "logs"))
    nobody_named("\n".join(client.last_log_lines()))


def test_plain_words_figures_and_apostrophes_are_left_as_they_are() -> None:
    printed = "Python's lock isn't held: 3.5 mm of 12 slices, version 2.1.0, 50 % (see SimpleITK)"
    assert redacted(printed) == printed


def test_a_name_is_kept_out_only_as_a_word_of_its_own() -> None:
    keep_out(["/cases/liver7.nii.gz"])
    assert redacted("liver7 is odd, liver77 is not") == "<...> is odd, liver77 is not"
