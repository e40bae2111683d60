"""Training of the head on encoded support slices, their priors as uncertain as they will be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.common.class_balance import (
    NEAR_SHARE_IN_LOSS,
    PositionWeights,
    near_foreground_mask,
)
from OFLSAM2Core.methods.common.segmentation_loss import segmentation_loss
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Head
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Mapping as TauMapping
from OFLSAM2Core.methods.ofl_sam2_atlas.kept_slices import TrainingSlice
from OFLSAM2Core.slice_position.regression import PositionNoise


class TrainingSet:
    """Slices that the head is trained on.

    components: (T, C, h, w). mapped: output of the mapping network that was fitted without a
    slice's own case, (T, N, S, S). Both in half precision.
    """

    def __init__(
        self, slices: Sequence[TrainingSlice], without: Mapping[int, TauMapping], place: bool
    ) -> None:
        self.slices = slices
        self.without = without
        self.place = place
        mapped = [without[s.case].of_features(s.components.float()).half() for s in slices]
        self.components = torch.stack([s.components for s in slices])
        self.mapped = torch.stack(mapped)
        near = [
            near_foreground_mask(s.masks.float() / 255, self.components.shape[-1]) for s in slices
        ]
        self.balance = PositionWeights.from_support(near, NEAR_SHARE_IN_LOSS)

    def batch(
        self, numbers: Sequence[int], error: PositionNoise, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, list[float | None]]:
        """Components, fine maps, truth and slice positions, as another volume may show them."""
        index = torch.tensor(list(numbers))
        slices = [self.slices[n] for n in numbers]
        components = self.components[index].float()
        mapped = self.mapped[index].float()
        masks = torch.stack([s.masks for s in slices]).float() / 255
        detail = torch.stack([s.detail for s in slices]).float()
        prior = torch.stack(
            [torch.zeros_like(s.masks) if s.prior is None else s.prior for s in slices]
        )
        prior = prior.float() / 255
        count = len(index)
        slice_positions: list[float | None] = []
        for each in slices:
            known = self.place and rng.random() < config.POSITION_GIVEN
            slice_positions.append(error.disturbed(each.slice_position, rng) if known else None)
        own = _affines(count, config.PRIOR_SCALE, config.PRIOR_SHIFT, rng)
        with_prior = torch.tensor(
            [float(self.place and rng.random() < config.PRIOR_GIVEN) for _ in slices]
        )
        prior = _warped(prior, own) * with_prior[:, None, None, None]
        prior = _misplaced(prior, rng)
        side = components.shape[-1]
        places = []
        for each, slice_position in zip(slices, slice_positions, strict=True):
            place = self.without[each.case].of_position(slice_position or 0.0, side)
            places.append(torch.zeros_like(mapped[0]) if place is None else place)
        mapped = mapped + torch.stack(places)
        return components, torch.cat([detail, mapped, prior], dim=1), masks, slice_positions


def train(
    head: Head,
    data: TrainingSet,
    steps: int,
    rate: float,
    error: PositionNoise,
    rng: np.random.Generator,
    on_step: Callable[[int, int, str], None],
    device: torch.device,
) -> None:
    """AdamW on Dice + cross-entropy, one cycle, on a device; the head is on the CPU again after."""
    rate = config.QUICK * rate
    head.to(device)
    weights = data.balance.to(device)
    optimiser = torch.optim.AdamW(head.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=max(steps, 11), pct_start=0.1
    )
    count = len(data.slices)
    batch = min(config.BATCH, count)
    order: list[int] = []
    mean_loss = 0.0
    head.train().requires_grad_(True)
    for step in range(steps):
        if len(order) < batch:
            order = [int(n) for n in rng.permutation(count)]
        numbers = [order.pop() for _ in range(batch)]
        balance = weights if step < config.BALANCED * steps else weights.even()
        loss = batch_loss(head, data.batch(numbers, error, rng), balance, device)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        mean_loss += (float(loss.detach()) - mean_loss) / min(step + 1, 50)
        on_step(step + 1, steps, f"loss {mean_loss:.3f}")
    head.to("cpu").eval().requires_grad_(False)


def batch_loss(
    head: Head,
    batch: tuple[Tensor, Tensor, Tensor, list[float | None]],
    balance: PositionWeights,
    device: torch.device,
) -> Tensor:
    """Loss of a batch as `TrainingSet.batch` gives it. head, balance: on the device."""
    *tensors, slice_positions = batch
    components, fine, truth = (each.to(device) for each in tensors)
    near = torch.stack([near_foreground_mask(each, components.shape[-1]) for each in truth])
    with in_bfloat16(device):
        logits = head(components, fine, slice_positions).float()
    return segmentation_loss(logits, truth, balance.weights(near))


def in_bfloat16(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Where the processor multiplies bfloat16 by itself, a step takes two thirds of the time."""
    quick = device.type == "cuda"
    if device.type == "cpu":
        quick = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.autocast(device.type, torch.bfloat16) if quick else nullcontext()


def _affines(count: int, scale: float, shift: float, rng: np.random.Generator) -> Tensor:
    """(B, 2, 3), in the coordinates of `affine_grid`."""
    found = np.zeros((count, 2, 3))
    for each in found:
        each[0, 0] = each[1, 1] = math.exp(rng.uniform(-scale, scale))
        each[:, 2] = 2 * rng.uniform(-shift, shift, 2)
    return torch.from_numpy(found).float()


def _misplaced(prior: Tensor, rng: np.random.Generator) -> Tensor:
    """Now and then the prior of a structure lies elsewhere, or is missing: a place is a hypothesis,
    which the features must confirm."""
    side = prior.shape[-1]
    for each in prior:
        for own in each:
            draw = rng.random()
            if draw < config.MISSING_PRIOR:
                own.zero_()
            elif draw < config.MISSING_PRIOR + config.FALSE_PRIOR:
                rows, columns = (int(n) for n in rng.integers(side // 8, side - side // 8, 2))
                own.copy_(own.roll((rows, columns), (0, 1)))
    return prior


def _warped(maps: Tensor, affine: Tensor) -> Tensor:
    grid = F.affine_grid(affine, [len(maps), 1, *maps.shape[-2:]], align_corners=False)
    return F.grid_sample(maps, grid, align_corners=False)
