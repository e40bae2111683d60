"""Segmenting a volume with the trained network, in sliding windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from torch import Tensor

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context, refuse_corrections
from OFLSAM2Core.methods.common.learned_tensors import set_learned_tensors
from OFLSAM2Core.methods.common.reading_state import reading
from OFLSAM2Core.methods.unet_from_scratch import UNetSegmentOptions
from OFLSAM2Core.methods.unet_from_scratch.network import Plan
from OFLSAM2Core.methods.unet_from_scratch.training import VERSION
from OFLSAM2Core.postprocessing.confidence import slice_confidence
from OFLSAM2Core.preprocessing.large_components import large_pieces

OVERLAP = 0.5
"""Share of a window that the next one covers again, as in nnU-Net."""


class UNetRun:
    """One volume, segmented as a whole; slices run along the first stored axis."""

    def __init__(
        self,
        ctx: Context,
        volume: Volume,
        task: LearnedTask,
        dimensions: int,
        options: UNetSegmentOptions,
    ) -> None:
        self.ctx, self.volume, self.structures, self.options = (
            ctx,
            volume,
            task.structures,
            options,
        )
        self._state, self._method = task.state, task.method
        with reading(task.state, VERSION):
            known = task.state.metadata
            self.plan = Plan(tuple(known["spacing"]), tuple(known["patch"]))
            if self.plan.dimensions != dimensions:
                raise KeyError("patch")
            self.single = [bool(each) for each in known["single"]]
            with ctx.seeded():
                self.network = self.plan.network(len(self.structures))
            set_learned_tensors(self.network, task.state.tensors)
        self.network.eval().requires_grad_(False).to(ctx.device)

    @torch.no_grad()
    def slices(self) -> Iterator[SliceResult]:
        """Every slice, once the whole volume is known. Confidence is the softmax."""
        count = self.volume.grid_shape[0]
        logits = self._logits(self.plan.image(self.volume)[None].to(self.ctx.device))
        back = F.interpolate(logits, self.volume.grid_shape, mode="trilinear")
        shares = back.softmax(dim=1)[0].cpu()
        labels = self._labels(shares.argmax(dim=0).numpy())
        confidence = (255 * shares.amax(dim=0)).round().to(torch.uint8).numpy()
        for index in range(count):
            scores = slice_confidence(shares[:, index])
            yield SliceResult(
                index=index,
                axis=0,
                labels=labels[index],
                confidence=confidence[index],
                scores={
                    structure.name: round(float(score), 4)
                    for structure, score in zip(self.structures, scores, strict=True)
                },
            )
            self.ctx.report(Progress("segment", index + 1, count))

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections(self._method)

    def state(self) -> MethodState:
        return self._state

    def _logits(self, image: Tensor) -> Tensor:
        """(1, N + 1, K, J, I) at the network's spacing."""
        if self.plan.dimensions == 3:
            return self._window(image, 1, "gaussian", 0, 1)
        depth = image.shape[2]
        each = [self._window(image[:, :, i], 4, "constant", i, depth) for i in range(depth)]
        return torch.stack(each, dim=2)

    def _window(self, image: Tensor, batch: int, mode: str, done: int, total: int) -> Tensor:
        self.ctx.report(Progress("segment", done, total, "sliding windows"))
        with self.ctx.timings.stage("decode"):
            found = sliding_window_inference(
                image, self.plan.patch, batch, self.network, OVERLAP, mode
            )
        assert isinstance(found, Tensor)
        return found

    def _labels(self, numbers: npt.NDArray) -> npt.NDArray[np.uint8]:
        values = np.array([0, *(structure.label for structure in self.structures)], np.uint8)
        labels = values[numbers]
        for structure, single in zip(self.structures, self.single, strict=True):
            if single and self.options.single_component:
                predicted = labels == structure.label
                labels[predicted & ~large_pieces(predicted, 1.0)] = 0
        return labels
