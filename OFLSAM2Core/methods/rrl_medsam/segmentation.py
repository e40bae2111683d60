"""A volume through both branches: the general one's mask is the medical one's prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context, refuse_corrections
from OFLSAM2Core.methods.common.reading_state import reading
from OFLSAM2Core.methods.common.sliced_volume import SlicePreparation
from OFLSAM2Core.methods.common.volume_on_grid import grey_on_grid, middle_of
from OFLSAM2Core.methods.rrl_medsam.networks import Encoder, MaskDecoder
from OFLSAM2Core.runtime.named_tensors import part_of

VERSION = 1


class Branches(nn.Module):
    """All that segments: both encoders, the general branch's decoder and the auto-prompting one."""

    def __init__(self, width: int, structures: int) -> None:
        super().__init__()
        self.general, self.medical = Encoder(width), Encoder(width)
        self.mask = MaskDecoder(width, structures + 1)
        self.prompted = MaskDecoder(width, structures + 1, structures + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, D, H, W) in [0, 1] to logits (B, N + 1, D, H, W): the general branch's, and the
        final ones, whose gradient does not reach the general branch."""
        return self.decode(images, self.medical(images))

    def decode(self, images: Tensor, medical: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The same where the medical encoder's levels of the images are known already."""
        general = self.mask(self.general(images))
        prompt = general.detach().softmax(dim=1)
        return general, self.prompted(medical, prompt)


class RrlMedSamRun:
    """One volume, segmented as a whole: no slice is known before all are."""

    def __init__(self, ctx: Context, volume: Volume, task: LearnedTask) -> None:
        self.ctx, self.structures = ctx, task.structures
        self._state = task.state
        with reading(task.state, VERSION):
            known = task.state.metadata
            prepared = SlicePreparation.from_json(known["slices"])
            self._spacing = float(known["spacing"])
            with ctx.seeded():
                self.branches = Branches(int(known["width"]), len(task.structures))
            self.branches.load_state_dict(part_of(task.state.tensors, "branches"))
        self.branches.eval().requires_grad_(False).to(ctx.device)
        self.volume = prepared.apply(volume)

    @torch.no_grad()
    def slices(self) -> Iterator[SliceResult]:
        """Every slice, from the first to the last."""
        volume, cut = self.volume, self.volume.slicing
        grid = IsotropicGrid.of_spacing(np.multiply(cut.shape, cut.steps).tolist(), self._spacing)
        middle = middle_of(volume)
        self.ctx.report(Progress("segment", 0, volume.count))
        with self.ctx.timings.stage("decode"):
            image, _ = grey_on_grid(grid, volume, middle)
            _, logits = self.branches(image[None].to(self.ctx.device))
            shares = logits[0].softmax(dim=0)[1:].cpu()
        box = (0, cut.slice_shape[0], 0, cut.slice_shape[1])
        for index in range(volume.count):
            own = grid.on_slices(shares, cut, middle, index, box)
            yield volume.result_on_grid(index, own, self.structures)[0]
            self.ctx.report(Progress("segment", index + 1, volume.count))

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections("rrl-medsam")

    def state(self) -> MethodState:
        return self._state
