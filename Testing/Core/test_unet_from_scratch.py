"""The U-Nets a user would train instead: they learn for the time they are given, and no longer."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from OFLSAM2Core.data.overlap import dice
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.methods.unet_from_scratch.network import Plan
from OFLSAM2Core.session import FewShotSession

STRUCTURES = (Structure("ball", 3),)


pytestmark = pytest.mark.usefixtures("one_thread")


def _case(number: int) -> SupportCase:
    """A bright ball in noise, on an anisotropic grid."""
    at = np.indices((8, 32, 30)).astype(float)
    middle = (4, 14 + number, 15 - number)
    scaled = [(own - m) * step for own, m, step in zip(at, middle, (3.0, 1.0, 1.0), strict=True)]
    labels = np.where(sum(each**2 for each in scaled) < 64, 3, 0).astype(np.uint8)
    image = np.random.default_rng(number).normal(0, 1, labels.shape) + 8 * (labels > 0)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    return SupportCase(
        Volume(image.astype(np.float32), affine, f"case{number}"), labels, STRUCTURES
    )


def _session(name: str, **options: float) -> FewShotSession:
    return FewShotSession(method=name, device="cpu", options=options)


@pytest.mark.parametrize(("name", "steps"), [("unet-2d", 12), ("unet-3d", 25)])
def test_a_bright_ball_is_learned_from_two_cases(name: str, steps: int, tmp_path: Path) -> None:
    session = _session(name, training_steps=steps, learning_rate=5e-3)
    task = LearnedTask.load(session.learn([_case(0), _case(1)]).save(tmp_path / "task.oflsam2"))
    assert task.state.summary["training steps"] == steps
    truth = _case(2)
    labels = np.full(truth.labels.shape, 255, np.uint8)
    for result in session.segment(truth.volume, task):
        labels[result.index_expression] = result.labels
        assert set(result.scores) == {"ball"}
    assert set(np.unique(labels)) <= {0, 3}
    assert dice(labels == 3, truth.labels == 3) > 0.5


def test_an_axis_is_pooled_once_its_voxels_are_less_than_twice_as_long_as_the_shortest() -> None:
    plan = Plan((2.2, 0.61, 0.61), (16, 96, 96))
    kernels, strides = plan.kernels_and_strides()
    assert strides == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    assert kernels == [[1, 3, 3], *[[3, 3, 3]] * 4]
    flat = Plan((0.0, 1.0, 1.0), (256, 256))
    assert flat.kernels_and_strides() == ([[3, 3]] * 5, [[1, 1], *[[2, 2]] * 4])


@pytest.mark.parametrize("patch", [(16, 96, 96), (96, 16, 16), (16, 16, 16), (32, 256)])
def test_the_network_gives_every_voxel_of_its_patch_all_classes(patch: tuple[int, ...]) -> None:
    plan = Plan((4.0, 1.0, 1.0), patch)
    with torch.no_grad():
        logits = plan.network(2)(torch.zeros(1, 1, *patch))
    assert logits.shape == (1, 3, *patch)


@pytest.mark.parametrize("name", ["unet-2d", "unet-3d"])
def test_training_begins_at_the_structures_shares_of_the_voxels(name: str) -> None:
    cases = [_case(0), _case(1)]
    task = _session(name, training_steps=1, learning_rate=1e-6).learn(cases)
    share = np.mean([np.mean(case.labels == 3) for case in cases])
    bias = task.state.tensors["output_block.conv.conv.bias"]
    assert float(bias.softmax(dim=0)[1]) == pytest.approx(share, rel=0.01)


def test_training_ends_when_its_time_is_over() -> None:
    minutes = 0.05
    started = time.process_time()
    task = _session("unet-3d", core_minutes=minutes).learn([_case(0), _case(1)])
    spent = time.process_time() - started
    assert 60 * minutes <= spent < 60 * minutes + 10
    assert task.state.summary["training steps"] > 1


def test_the_same_seed_and_steps_give_the_same_network() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other = (
        _session("unet-3d", training_steps=2).learn([_case(0), _case(1)]) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in one.state.tensors.items():
        assert torch.equal(tensor, other.state.tensors[name]), name


def test_a_task_of_the_other_number_of_dimensions_is_refused() -> None:
    task = _session("unet-3d", training_steps=1).learn([_case(0)])
    with pytest.raises(TaskError, match="unet-3d"):
        _session("unet-2d").open(_case(1).volume, task)
