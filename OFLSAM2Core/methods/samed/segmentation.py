"""A volume through the fine-tuned network, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context, refuse_corrections
from OFLSAM2Core.methods.common.learned_tensors import set_learned_tensors
from OFLSAM2Core.methods.common.reading_state import reading
from OFLSAM2Core.methods.common.sliced_volume import SlicePreparation
from OFLSAM2Core.methods.samed.lora import add_lora, in_precision_of
from OFLSAM2Core.runtime.named_tensors import part_of

VERSION = 2


class SamedRun:
    """One volume; slices know nothing of one another."""

    def __init__(self, ctx: Context, volume: Volume, task: LearnedTask) -> None:
        self.ctx, self.structures = ctx, task.structures
        self._state = task.state
        backbone = ctx.needed_backbone
        with reading(task.state, VERSION):
            prepared = SlicePreparation.from_json(task.state.metadata["slices"])
            with ctx.seeded():
                self.sam = backbone.trainable(len(task.structures) + 1).eval()
                add_lora(self.sam, int(task.state.metadata["rank"]))
            set_learned_tensors(self.sam, part_of(task.state.tensors, "learned"))
            log_shares = [float(each) for each in task.state.metadata["log_shares"]]
            self._log_shares = torch.tensor(log_shares).view(-1, 1, 1).to(backbone.device)
        self.sam.requires_grad_(False).to(backbone.device)
        self.volume = prepared.apply(volume)

    @torch.no_grad()
    def slices(self) -> Iterator[SliceResult]:
        """From the first to the last. Confidence is the softmax."""
        volume, device = self.volume, self.ctx.needed_backbone.device
        for index in range(volume.count):
            self.ctx.report(Progress("segment", index, volume.count))
            with self.ctx.timings.stage("encode"), in_precision_of(self.ctx.needed_backbone):
                logits = self.sam(volume.image(index).to(device))[0]
            shares = (logits.float() + self._log_shares).softmax(dim=0)[1:]
            yield volume.result(index, shares, self.structures)[0]
        self.ctx.report(Progress("segment", volume.count, volume.count))

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections("samed")

    def state(self) -> MethodState:
        return self._state
