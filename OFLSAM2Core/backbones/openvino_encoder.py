"""An encoder compiled by OpenVINO for this processor: 3.2 times faster than PyTorch on 2 cores in
single precision, relative difference 4e-6; in bfloat16 twice as fast again, but 5 % apart
(docs/decisions/0024).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from OFLSAM2Core.runtime.telemetry import import_openvino

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names of them."""


class OpenVinoEncoder:
    """Compiled when it is first asked for a precision.

    precisions: what this processor calculates in by itself, the quickest first.
    """

    def __init__(self, encoder: nn.Module, image_size: int) -> None:
        """Raises ImportError where OpenVINO is not installed."""
        openvino = import_openvino()
        shape = [1, 3, image_size, image_size]
        example = torch.zeros(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The tracer's deprecation notes are not the user's.
            # Traced here, without the check that runs the encoder again: 7 s instead of 15.
            traced = torch.jit.trace(encoder, example, check_trace=False)
            self._model = openvino.convert_model(traced, example_input=example, input=shape)
        self._core = openvino.Core()
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
