"""How the pixel network is learned: copies of the support's slices, each made for one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.base import SupportSlices
from OFLSAM2Core.methods.ofl_sam2.augmentation import augment
from OFLSAM2Core.methods.ofl_sam2.balance import NEAR_SHARE_IN_LOSS, Balance, near_structures
from OFLSAM2Core.methods.ofl_sam2.consistency import as_bytes
from OFLSAM2Core.methods.ofl_sam2.episodes import BALANCED, segmentation_loss
from OFLSAM2Core.methods.ofl_sam2.levels import Level, LevelError, LevelScale
from OFLSAM2Core.methods.ofl_sam2.mirror import in_mirror
from OFLSAM2Core.methods.ofl_sam2.pixel_look import PixelLook
from OFLSAM2Core.methods.ofl_sam2.pixel_network import PixelNetwork
from OFLSAM2Core.methods.ofl_sam2.seen_pixels import SIDE, SeenPixels, on_side
from OFLSAM2Core.methods.ofl_sam2.side_by_side import SideBySide
from OFLSAM2Core.methods.ofl_sam2.support_set import worth_learning
from OFLSAM2Core.results import Progress, ProgressCallback
from OFLSAM2Core.structures import Structure

BATCH = 8
"""Slices a step."""

PARTS = 2
"""In which they are worked on, each on its own thread."""

COARSE = 0.8
"""Share of the steps in which slices are seen at half their size: each takes a quarter of the time.
On left atria five minutes of a core bring a Dice of 0.88 so, and fifteen at full size 0.86."""

LEARNING_RATE = 1e-3

WARMING_UP = 0.03
"""Share of the steps in which the learning rate rises."""

LARGEST_GRADIENT = 1.0

ENTROPY = 3.0
"""How much cross-entropy counts beside Dice."""

FULL = 0.75
"""Share of the slices with structures, where there are others."""

POSITIONS = SIDE // 4
"""Along the side, of the grid that weights are on."""


@dataclass(frozen=True)
class _Case:
    """full, empty: which slices are learned from. masks: of these, (N, SIDE, SIDE) uint8, 255 where
    a structure covers the pixel."""

    seen: SeenPixels
    scale: LevelScale
    spacing: float
    full: list[int]
    empty: list[int]
    masks: dict[int, Tensor]

    @classmethod
    def of(cls, shown: SupportSlices, structures: Sequence[Structure], cases: int) -> _Case:
        chosen = worth_learning(shown, cases)
        masks = {}
        for index in chosen:
            planes = [
                shown.prepared.mask_to_network(shown.labels[index], each.label)
                for each in structures
            ]
            masks[index] = as_bytes(on_side(np.stack(planes)))
        spacing = shown.slicing.slice_spacing
        return cls(
            SeenPixels(shown.prepared, shown.slicing),
            LevelScale.of_labels(shown.labels, spacing),
            spacing,
            [index for index in chosen if shown.labels[index].any()],
            [index for index in chosen if not shown.labels[index].any()],
            masks,
        )


@dataclass(frozen=True)
class _Drawn:
    """images (B, 3, S, S) and masks (B, N, S, S) in [0, 1]."""

    images: Tensor
    masks: Tensor
    levels: list[Level]


@dataclass(frozen=True)
class PixelLessons:
    """level_error: of levels as they are found at first; more than they are off when pixels are
    looked at, but who sees so little must not rely on them. partners: as `mirror_partners` gives
    them: every second copy is mirrored."""

    cases: Sequence[_Case]
    level_error: LevelError
    partners: npt.NDArray[np.intp] | None

    @classmethod
    def of(
        cls,
        support: Sequence[SupportSlices],
        structures: Sequence[Structure],
        level_error: LevelError,
        partners: npt.NDArray[np.intp] | None,
    ) -> PixelLessons:
        cases = [_Case.of(shown, structures, len(support)) for shown in support]
        return cls(cases, level_error, partners)

    def learn(
        self,
        steps: int,
        device: torch.device,
        rng: np.random.Generator,
        on_progress: ProgressCallback,
    ) -> PixelLook:
        """AdamW on Dice + cross-entropy, at half the size first."""
        every = [masks for case in self.cases for masks in case.masks.values()]
        near = [near_structures(masks.float() / 255, POSITIONS) for masks in every]
        balance = Balance.of_support(near, NEAR_SHARE_IN_LOSS).to(device)
        network = PixelNetwork(structures=len(every[0])).to(device)
        parameters = list(network.parameters())
        optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, LEARNING_RATE, total_steps=steps + 1, pct_start=WARMING_UP
        )
        quick = has_matrix_tiles(device)

        def logits_of(part: _Drawn) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=quick):
                return network(part.images.to(device), part.levels).float()

        mean_loss = 0.0
        with SideBySide(device, PARTS) as side_by_side:
            for step in range(steps):
                size = SIDE // 2 if step < COARSE * steps else SIDE
                # Each part has its own random numbers: which thread is first must not matter.
                generators = [np.random.default_rng(rng.integers(2**32)) for _ in range(PARTS)]
                parts = side_by_side.each(partial(self._drawn, size), generators)
                # In the order in which `backward` has a batch's parts.
                truth = torch.stack([part.masks for part in parts], dim=1).flatten(0, 1).to(device)
                near = [near_structures(masks, POSITIONS) for masks in truth]
                of_step = balance if step < BALANCED * steps else balance.even()
                loss_of = partial(
                    segmentation_loss,
                    truth=truth,
                    weights=of_step.weights(torch.stack(near)),
                    cross_entropy=ENTROPY,
                )
                loss, _ = side_by_side.backward(logits_of, parts, loss_of, parameters)
                torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
                optimiser.step()
                schedule.step()
                mean_loss += (loss - mean_loss) / min(step + 1, 50)
                on_progress(Progress("learn", step + 1, steps, f"loss {mean_loss:.3f}"))
        network.eval().requires_grad_(False)
        return PixelLook(network)

    def _drawn(self, size: int, rng: np.random.Generator) -> _Drawn:
        """A part of a batch: copies of slices as `augment` makes them, `size` pixels each way."""
        images: list[Tensor] = []
        masks: list[Tensor] = []
        levels: list[Level] = []
        for _ in range(BATCH // PARTS):
            case = self.cases[int(rng.integers(len(self.cases)))]
            full = not case.empty or rng.random() < FULL
            index = int(rng.choice(case.full if full else case.empty))
            both = case.seen.image(index), case.masks[index].float() / 255
            small = [F.avg_pool2d(planes, SIDE // size).numpy() for planes in both]
            image, planes = augment(small[0], small[1], rng)
            if self.partners is not None and rng.random() < 0.5:
                image, planes = in_mirror(image, planes, self.partners)
            images.append(torch.from_numpy(image))
            masks.append(torch.from_numpy(planes))
            level = case.scale.level(index * case.spacing)
            levels.append(Level(self.level_error.disturbed(level, rng), again=True))
        return _Drawn(torch.stack(images), torch.stack(masks), levels)


def has_matrix_tiles(device: torch.device) -> bool:
    """Whether this processor multiplies matrices of bfloat16 by itself (Intel's AMX): a step then
    takes half of the time. Elsewhere, and wherever a volume is read, precision is single."""
    return device.type == "cpu" and bool(
        # Not documented by PyTorch: without it training is slower, and that is all.
        getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    )
