"""Training from random weights: Dice + cross-entropy, AdamW, cosine schedule over the time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandGaussianNoised,
    RandScaleIntensityd,
    SpatialPadd,
)
from torch import Tensor

from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.initial_shares import begin_at_shares
from OFLSAM2Core.methods.common.learned_tensors import learned_tensors
from OFLSAM2Core.methods.common.training_clock import training_clock
from OFLSAM2Core.methods.unet_from_scratch import UNetLearnOptions
from OFLSAM2Core.methods.unet_from_scratch.network import Plan
from OFLSAM2Core.postprocessing.connected_components import is_single_component

VERSION = 2

BATCH = {2: 8, 3: 1}
"""Slices, or patches, a step. nnU-Net has 12 and more, or 2, for a GPU; on a processor they would
leave few steps."""

Sample = dict[str, Tensor]


def train(
    ctx: Context, support: Sequence[SupportCase], dimensions: int, options: UNetLearnOptions
) -> MethodState:
    """A network trained on the support until the time, or the number of steps, is over."""
    values = [structure.label for structure in support[0].structures]
    plan = Plan.of_support([case.volume for case in support], dimensions)
    cases = [
        {
            "image": plan.image(case.volume),
            "label": plan.labels(case.volume, case.labels, values),
        }
        for case in support
    ]
    with ctx.seeded():
        network = plan.network(len(values))
        begin_at_shares(network.output_block.conv.conv, _shares(cases, len(values)))
        network.to(ctx.device)
        optimiser = torch.optim.AdamW(
            network.parameters(), options.learning_rate, weight_decay=1e-4
        )
        # Dice is of the structures, as in nnU-Net: the background's is nearly 1 from the start.
        criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        rng = ctx.rng()
        augment = _augmentation(plan)
        augment.set_random_state(int(rng.integers(2**31)))
        steps = 0
        for part in training_clock(options.core_minutes, options.training_steps):
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * (1 + math.cos(math.pi * part)) / 2
            # Cropping makes a list of one sample.
            drawn = [augment(_draw(cases, plan, rng))[0] for _ in range(BATCH[dimensions])]
            images, labels = (
                torch.stack([each[key].as_tensor() for each in drawn]).to(ctx.device)
                for key in ("image", "label")
            )
            loss = criterion(network(images.float()), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            ctx.report(Progress("learn", round(1000 * part), 1000, f"loss {loss.item():.3f}"))
    single = [is_single_component([case.labels for case in support], value) for value in values]
    return MethodState(
        VERSION,
        {"spacing": list(plan.spacing), "patch": list(plan.patch), "single": single},
        {name: tensor.cpu() for name, tensor in learned_tensors(network).items()},
        {"training steps": steps},
    )


def _shares(cases: Sequence[Sample], structures: int) -> Tensor:
    """Share of all voxels that background and each structure have, (N + 1,)."""
    numbers = torch.cat([torch.as_tensor(case["label"]).flatten() for case in cases]).long()
    return torch.bincount(numbers, minlength=structures + 1) / len(numbers)


def _draw(cases: Sequence[Sample], plan: Plan, rng: np.random.Generator) -> Sample:
    """A case; in 2D one of its slices, two of three times one that shows a structure."""
    case = cases[int(rng.integers(len(cases)))]
    if plan.dimensions == 3:
        return dict(case)
    full = np.flatnonzero(case["label"].amax(dim=(0, 2, 3)).numpy())
    anywhere = np.arange(case["label"].shape[1])
    index = int(rng.choice(full if rng.random() < 2 / 3 else anywhere))
    return {key: values[:, index] for key, values in case.items()}


def _augmentation(plan: Plan) -> Compose:
    both = ["image", "label"]
    axes = plan.dimensions
    return Compose(
        [
            SpatialPadd(both, plan.patch),
            RandCropByPosNegLabeld(both, "label", plan.patch, pos=2, neg=1, num_samples=1),
            RandAffined(
                both,
                prob=0.8,
                rotate_range=[0.26] * (1 if axes == 2 else 3),
                scale_range=[0.2] * axes,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.6)),
            RandScaleIntensityd("image", 0.2, prob=0.5),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )
