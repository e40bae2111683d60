"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Files are tested side by side: more threads in each would wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


for name in ("SIGHUP", "SIGINT"):
    # Programs that are started from here are to be stopped by these signals, also where the tests
    # themselves run under nohup or in the background of a shell, which ignore them for all.
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def logs_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs that tests start log into a folder of the tests, not among the user's logs."""
    before = os.environ.get("OFLSAM2_LOG_DIR")
    os.environ["OFLSAM2_LOG_DIR"] = str(tmp_path_factory.mktemp("logs"))
    yield
    if before is None:
        del os.environ["OFLSAM2_LOG_DIR"]
    else:
        os.environ["OFLSAM2_LOG_DIR"] = before
