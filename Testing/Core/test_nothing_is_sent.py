"""Nothing leaves this machine that the user did not ask for: no telemetry, no update checks."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK
from sealed_process import ROOT, Ended, Sealed

from OFLSAM2Core.backbones.weights import weights_path
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.worker.client import WorkerClient

ALLOWED = ("out/", ".cache/matplotlib/", ".cache/oflsam2/", ".local/state/oflsam2/", "Library/")

SMALL_ENCODER = """
import sys
import torch
from OFLSAM2Core.backbones.openvino_encoder import OpenVinoEncoder

network = torch.nn.Conv2d(3, 4, 3).eval()
encoder = OpenVinoEncoder(network, 16)
image = torch.rand(1, 3, 16, 16)
found = encoder(image, "float32")
assert torch.allclose(found, network(image), atol=1e-4)
"""

IMPORTED_BEFORE = """
import openvino
from openvino.tools import ovc
import openvino_telemetry

class Caught(Exception):
    pass

def caught(self, *args, **kwargs):
    raise SystemExit("telemetry ran")

for name in ("send_event", "send_error", "start_session", "end_session", "send_stack_trace"):
    setattr(openvino_telemetry.Telemetry, name, caught)
"""


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return Sealed(tmp_path)


def sent_nothing(ended: Ended) -> None:
    assert ended.network == []
    assert ended.left == []
    assert [name for name in ended.made if not name.startswith(ALLOWED)] == []


def test_the_test_itself_notices_a_connection_a_process_and_a_file(sealed: Sealed) -> None:
    program = """
import pathlib, socket, subprocess, sys, urllib.request
pathlib.Path.home().joinpath("openvino_ga_cid").write_text("1")
nothing = subprocess.DEVNULL
left = [sys.executable, "-c", "import time; time.sleep(5)"]
subprocess.Popen(left, stdout=nothing, stderr=nothing)
try:
    urllib.request.urlopen("http://127.0.0.1:9/")
except OSError:
    pass
"""
    ended = sealed.run(sys.executable, "-c", program)
    assert ended.returncode == 0, ended.stderr
    assert any("127.0.0.1" in tried for tried in ended.network)
    assert len(ended.left) == 1 and ended.processes
    assert ended.made == {"openvino_ga_cid"}


def test_converting_and_running_an_encoder_with_openvino_sends_nothing_and_forks_nothing(
    sealed: Sealed,
) -> None:
    pytest.importorskip("openvino")
    ended = sealed.run(sys.executable, "-c", SMALL_ENCODER)
    assert ended.returncode == 0, ended.stderr
    sent_nothing(ended)
    assert [one for one in ended.processes if one.startswith("os.fork")] == []


def test_openvino_is_silent_also_where_another_part_of_the_program_imported_it_before(
    sealed: Sealed,
) -> None:
    assert importlib.metadata.version("openvino-telemetry")  # Else this tests nothing.
    ended = sealed.run(sys.executable, "-c", IMPORTED_BEFORE + SMALL_ENCODER)
    assert ended.returncode == 0, ended.stderr


def test_openvino_is_imported_in_one_place_only() -> None:
    found = []
    for path in sorted((ROOT / "OFLSAM2Core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == "openvino" for name in names):
                found.append(path.relative_to(ROOT).as_posix())
    assert found == ["OFLSAM2Core/runtime/telemetry.py"]


@pytest.fixture
def weights() -> dict[str, str]:
    """The environment in which the default backbone's weights are found without a network."""
    return {"OFLSAM2_WEIGHTS_DIR": str(weights_path("litemedsam").parent)}


WITH_AND_WITHOUT_BACKBONE = [
    pytest.param(["--device", "cpu", "--method", "toy-threshold"], id="without backbone"),
    pytest.param(QUICK, id="default backbone", marks=pytest.mark.slow),
]
"""The method of a package beside this one takes no time: all around methods is the same."""


@pytest.mark.parametrize("options", WITH_AND_WITHOUT_BACKBONE)
def test_evaluate_learns_segments_and_reports_without_a_network(
    sealed: Sealed, weights: dict[str, str], cases: Path, options: list[str], package: Path
) -> None:
    sealed.environment["PYTHONPATH"] += os.pathsep + str(package)
    words = ["evaluate", str(cases), "--supports", "2", "--cases", "1", "--out", "out", *options]
    ended = sealed.run(sys.executable, "-m", "OFLSAM2Core", *words, **weights)
    assert ended.returncode == 0, ended.stderr
    assert "mean dice" in ended.stdout
    sent_nothing(ended)


@pytest.mark.parametrize("options", WITH_AND_WITHOUT_BACKBONE)
def test_demo_runs_without_a_network(
    sealed: Sealed, weights: dict[str, str], options: list[str], package: Path
) -> None:
    sealed.environment["PYTHONPATH"] += os.pathsep + str(package)
    words = ["demo", "--out", "out", *options]
    ended = sealed.run(sys.executable, "-m", "OFLSAM2Core", *words, timeout=1800, **weights)
    assert ended.returncode == 0, ended.stderr
    sent_nothing(ended)


def small_case(seed: int) -> SupportCase:
    from OFLSAM2Core.evaluation.phantom import phantom

    return phantom((4, 48, 48), 1, seed, "case")


@pytest.fixture
def worker(sealed: Sealed, weights: dict[str, str]) -> Iterator[WorkerClient]:
    client = WorkerClient(env={**sealed.environment, **weights}, cwd=sealed.home)
    client.start()
    yield client
    client.close()


@pytest.mark.slow
def test_a_worker_learns_and_segments_without_a_network_and_leaves_no_process(
    sealed: Sealed, worker: WorkerClient, tmp_path: Path
) -> None:
    options = {"training_steps": 8, "encoded_slices": 16, "atlas_prior": False}
    pid = worker.pid
    assert pid is not None
    assert worker.wait(worker.hello(), timeout=60).name == "ready"
    path = tmp_path / "task.oflsam2"
    learned = worker.wait(
        worker.learn([small_case(1), small_case(2)], task_path=path, options=options, device="cpu"),
        timeout=600,
    )
    assert learned.name == "done", learned.header
    target = small_case(3).volume
    segmented = worker.wait(
        worker.segment(Volume(np.asarray(target.array), target.affine), task_path=path),
        timeout=600,
    )
    assert segmented.name == "done", segmented.header
    worker.close()
    sent_nothing(sealed.ended(pid, 0))
