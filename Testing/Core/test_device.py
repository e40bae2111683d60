"""Choosing a device by name, on the machine that the tests run on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from OFLSAM2Core.errors import InputError, ResourceError
from OFLSAM2Core.runtime.device import choose_device, describe_devices


def test_every_device_that_is_described_can_be_chosen_and_computes() -> None:
    for info in describe_devices():
        device = choose_device(info.name)
        assert str(device) == info.name
        assert torch.ones(3, device=device).sum().item() == 3
        assert 0 < info.free_bytes <= info.total_bytes


def test_auto_takes_the_device_described_first() -> None:
    assert str(choose_device("auto")) == describe_devices()[0].name
    assert choose_device() == choose_device("AUTO ")


def test_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert "cpu" in {info.name for info in describe_devices()}


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:one", "", "cpu:0"])
def test_a_word_that_is_no_device_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(InputError, match="cuda:0"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused_with_what_to_do() -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ResourceError, match=absent) as caught:
        choose_device(absent)
    assert "--device" in caught.value.hint and caught.value.kind == "resource"


def test_cuda_without_any_gpu_is_refused_even_when_a_driver_could_be_there() -> None:
    """In a process that sees no GPU, whatever this machine has."""
    code = (
        "from OFLSAM2Core.runtime.device import choose_device\n"
        "from OFLSAM2Core.errors import ResourceError\n"
        "try:\n    choose_device('cuda')\n"
        "except ResourceError as error:\n    print(error.hint)\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert "--device cpu" in done.stdout, done.stderr


def test_the_description_goes_through_json_as_the_worker_sends_it() -> None:
    first = describe_devices()[0].to_json()
    assert set(first) == {"name", "description", "free_bytes", "total_bytes"}
    assert isinstance(first["free_bytes"], int) and isinstance(first["total_bytes"], int)
