"""An encoder compiled by OpenVINO for this processor: 3.2 times faster than PyTorch on 2 cores in
single precision, relative difference 4e-6; in bfloat16 twice as fast again, but 5 % apart
(docs/decisions/0024).
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from OFLSAM2Core.backbones.converted_encoder import (
    converted_path,
    keep_converted,
    read_converted,
)
from OFLSAM2Core.runtime.telemetry import import_openvino

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names of them."""


class OpenVinoEncoder:
    """Compiled when it is first asked for a precision.

    precisions: what this processor calculates in by itself, the quickest first.
    """

    def __init__(self, encoder: nn.Module, image_size: int, identity: str | None = None) -> None:
        """identity: SHA-256 of the weights file, where the converted encoder may be kept in the
        cache folder and taken from there.

        Raises ImportError where OpenVINO is not installed.
        """
        openvino = import_openvino()
        self._core = openvino.Core()
        self._model = None
        path = None
        if identity is not None:
            path = converted_path(identity, openvino.get_version(), image_size)
            self._model = _read(openvino, self._core, read_converted(path))
        if self._model is None:
            self._model = _convert(openvino, encoder, image_size)
            if path is not None:
                keep_converted(path, openvino, self._model)
        quick = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precisions = ("bfloat16", "float32") if quick else ("float32",)
        self._compiled: dict[str, Any] = {}

    def __call__(self, images: Tensor, precision: str) -> Tensor:
        """Images (B, 3, S, S) to embeddings (B, C, h, w), calculated in one of `precisions`."""
        if precision not in self._compiled:
            settings = {
                "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
                "PERFORMANCE_HINT": "LATENCY",
            }
            self._compiled[precision] = self._core.compile_model(self._model, "CPU", settings)
        run = self._compiled[precision]
        arrays = images.float().cpu().numpy()
        found = [run(arrays[i : i + 1])[0] for i in range(len(arrays))]
        return torch.from_numpy(np.concatenate(found))


def _convert(openvino: Any, encoder: nn.Module, image_size: int) -> Any:
    shape = [1, 3, image_size, image_size]
    example = torch.zeros(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The tracer's deprecation notes are not the user's.
        # Traced here, without the check that runs the encoder again: half the time.
        traced = torch.jit.trace(encoder, example, check_trace=False)
        return openvino.convert_model(traced, example_input=example, input=shape)


def _read(openvino: Any, core: Any, parts: tuple[bytes, bytes] | None) -> Any:
    """The model, or None where it is not kept or this OpenVINO cannot read it."""
    if parts is None:
        return None
    graph, constants = parts
    with suppress(RuntimeError, UnicodeDecodeError):
        values = openvino.Tensor(np.frombuffer(constants, np.uint8))
        return core.read_model(graph.decode("utf-8"), values)
    return None
