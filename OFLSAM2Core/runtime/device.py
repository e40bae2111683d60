"""Which processor does the work: choosing one by name, and what there is to choose from."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

from OFLSAM2Core.errors import InputError, ResourceError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DeviceInfo:
    """A device that `choose_device` accepts.

    name: "cpu", "cuda:0", "mps".
    description: for the user, such as the GPU's product name.
    free_bytes, total_bytes: its memory; of the whole machine for "cpu" and "mps".
    """

    name: str
    description: str
    free_bytes: int
    total_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def choose_device(name: str = "auto") -> torch.device:
    """The torch device for "auto", "cpu", "cuda", "cuda:N" or "mps".

    "auto" is the CUDA device with the most free memory, else the CPU. Apple's "mps" is taken only
    when asked for: SAM2's complex-valued position encoding is not implemented there in every
    version of PyTorch.
    Raises InputError for another word, ResourceError for a device this machine does not have.
    """
    import torch

    word = name.strip().lower()
    if word == "auto":
        gpus = _cuda_devices()
        return torch.device(max(gpus, key=lambda gpu: gpu.free_bytes).name if gpus else "cpu")
    if word == "cpu":
        return torch.device("cpu")
    if word == "mps":
        if not torch.backends.mps.is_available():
            raise ResourceError(
                "The device 'mps' was asked for, but this machine has none.",
                "Use --device cpu; 'mps' needs a Mac with Apple silicon.",
            )
        return torch.device("mps")
    match = re.fullmatch(r"cuda(?::(\d+))?", word)
    if match is None:
        raise InputError(
            f"'{name}' is not a device.", "Use auto, cpu, cuda, cuda:0 (or another number) or mps."
        )
    _check_cuda(word, int(match.group(1) or 0))
    return torch.device(word)


def has_matrix_tiles(device: torch.device) -> bool:
    """Whether this is a processor with matrix tiles (Intel's AMX)."""
    import torch

    return device.type == "cpu" and bool(
        # Not documented by PyTorch: without it work is slower, and exact to more digits.
        getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )


def describe_devices() -> list[DeviceInfo]:
    """All devices of this machine, the one that "auto" takes first."""
    import torch

    memory = psutil.virtual_memory()
    devices = sorted(_cuda_devices(), key=lambda gpu: -gpu.free_bytes)
    devices.append(
        DeviceInfo(
            "cpu",
            f"CPU, {torch.get_num_threads()} threads",
            int(memory.available),
            int(memory.total),
        )
    )
    if torch.backends.mps.is_available():
        devices.append(DeviceInfo("mps", "Apple GPU", int(memory.available), int(memory.total)))
    return devices


def _cuda_devices() -> list[DeviceInfo]:
    import torch

    if not torch.cuda.is_available():
        return []
    devices = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        devices.append(DeviceInfo(f"cuda:{index}", torch.cuda.get_device_name(index), free, total))
    return devices


def _check_cuda(asked: str, index: int) -> None:
    import torch

    if torch.version.cuda is None:
        raise ResourceError(
            f"The device '{asked}' was asked for, but the installed PyTorch "
            f"({torch.__version__}) cannot use NVIDIA GPUs.",
            "Install a CUDA build of PyTorch, or use --device cpu.",
        )
    if not torch.cuda.is_available():
        raise ResourceError(
            f"The device '{asked}' was asked for, but no usable NVIDIA GPU was found.",
            "Check the driver (nvidia-smi), or use --device cpu.",
        )
    count = torch.cuda.device_count()
    if index >= count:
        raise ResourceError(
            f"The device '{asked}' was asked for, but this machine has {count} GPU(s): "
            f"cuda:0 to cuda:{count - 1}.",
            "Use one of these, or --device auto.",
        )
