"""The yardstick: plain SAM2VideoPredictor, timed on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from OFLSAM2Core.backbones.sam2_config import CONFIGS, build_random_sam2
from OFLSAM2Core.errors import InputError, WeightsError
from OFLSAM2Core.evaluation.bench_sam2 import bench_sam2
from OFLSAM2Core.runtime.peak_memory import PeakMemory


@pytest.fixture(autouse=True)
def nothing_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OFLSAM2_CACHE", str(tmp_path))
    monkeypatch.delenv("OFLSAM2_WEIGHTS_DIR", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 60, 70, 3), dtype=np.uint8)


def _masks(count: int) -> np.ndarray:
    masks = np.zeros((count, 60, 70), dtype=bool)
    masks[:, 20:40, 20:50] = True
    return masks


def test_the_times_of_a_run_add_up_to_the_time_it_took(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.perf_counter()
    timing = bench_sam2(_frames(5), _masks(2), image_size=64)
    took = time.perf_counter() - started
    told = timing.seconds_to_load + timing.seconds_to_first_slice + 3 * timing.seconds_per_slice
    assert 0.4 * took < told <= took
    assert (timing.slices, timing.structures, timing.image_size) == (5, 2, 64)
    assert timing.random_weights and timing.peak_bytes > 50_000_000
    assert capfd.readouterr().err == ""


def test_weights_from_a_file_are_used_and_wrong_ones_refused(tmp_path: Path) -> None:
    right, wrong = tmp_path / "tiny.pt", tmp_path / "toy.pt"
    for path, architecture in ((right, "sam2-tiny"), (wrong, "sam2-toy")):
        model = build_random_sam2(CONFIGS[architecture], 64, seed=0)
        torch.save({"model": model.state_dict()}, path)
    assert not bench_sam2(_frames(3), _masks(1), image_size=64, weights=right).random_weights
    with pytest.raises(WeightsError, match="toy.pt"):
        bench_sam2(_frames(3), _masks(1), image_size=64, weights=wrong)


def test_what_sam2_cannot_be_run_with_is_refused() -> None:
    with pytest.raises(InputError, match="litemedsam"):
        bench_sam2(_frames(3), _masks(1), backbone="litemedsam")
    with pytest.raises(InputError, match="2 frames"):
        bench_sam2(_frames(2), _masks(1))


def test_the_memory_watch_sees_what_was_held_and_given_back() -> None:
    with PeakMemory() as nothing:
        pass
    with PeakMemory() as watch:
        held = np.ones(40_000_000, dtype=np.float32)
        time.sleep(0.1)
        del held
    assert 150e6 < watch.peak_bytes - nothing.peak_bytes < 250e6
