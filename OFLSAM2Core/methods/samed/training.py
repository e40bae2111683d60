"""Fine-tuning on the support's slices: Dice + cross-entropy of all structures at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from torch import Tensor

from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.slice_geometry import SliceGeometry, support_geometries
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.augmentation import augment
from OFLSAM2Core.methods.common.initial_shares import LEAST_SHARE
from OFLSAM2Core.methods.common.learned_tensors import learned_tensors
from OFLSAM2Core.methods.common.sliced_volume import SlicedCase, SlicePreparation
from OFLSAM2Core.methods.common.training_clock import training_clock
from OFLSAM2Core.methods.samed import SamedLearnOptions
from OFLSAM2Core.methods.samed.lora import add_lora, in_precision_of
from OFLSAM2Core.methods.samed.segmentation import VERSION
from OFLSAM2Core.preprocessing.roi_crop import longest_side
from OFLSAM2Core.runtime.named_tensors import named

BATCH = 2
"""Slices a step; the paper's 12 would be few steps on a processor."""

DICE, CROSS_ENTROPY = 0.8, 0.2
"""Weights of the two losses, the paper's."""
WARM_UP = 0.1
"""Share of the training in which the learning rate rises."""
DECAY = 0.9
"""Power of the learning rate's decay after that, the paper's."""
WEIGHT_DECAY = 0.1
"""Of AdamW, the paper's."""

MAGNIFICATION = 2
"""Pixels of the encoder's image for a pixel of the slice, as the default method has."""
MULTIPLE = 32
"""Pixels; TinyViT halves an image several times."""


def train(ctx: Context, support: Sequence[SupportCase], options: SamedLearnOptions) -> MethodState:
    """LoRA and decoder, trained until the time, or the number of steps, is over."""
    structures = support[0].structures
    with ctx.seeded():
        sam = ctx.needed_backbone.trainable(len(structures) + 1).eval()
        add_lora(sam, options.rank)
        size = ctx.needed_backbone.image_size
        if sam.takes_any_size:
            size = enough_pixels(support_geometries(support, options.slicing_axis), size)
        prepared, cases = SlicePreparation.learn(
            support, size, options.slicing_axis, options.intensity_window
        )
        sam.to(ctx.needed_backbone.device)
        learned = [each for each in sam.parameters() if each.requires_grad]
        optimiser = torch.optim.AdamW(learned, options.learning_rate, weight_decay=WEIGHT_DECAY)
        # Dice is of the structures: the background's is nearly 1 from the start.
        criterion = DiceCELoss(
            include_background=False,
            softmax=True,
            batch=True,
            lambda_dice=DICE,
            lambda_ce=CROSS_ENTROPY,
        )
        prior = log_shares(cases, structures)
        rng, steps = ctx.rng(), 0
        for part in training_clock(options.core_minutes, options.training_steps):
            for group in optimiser.param_groups:
                group["lr"] = options.learning_rate * rate(part)
            images, labels = _batch(cases, structures, rng)
            with ctx.timings.stage("train"):
                with in_precision_of(ctx.needed_backbone):
                    logits = sam(images.to(ctx.needed_backbone.device))
                logits = logits.float() + prior.to(logits.device)
                shares = F.adaptive_avg_pool2d(labels, logits.shape[-1]).to(logits)
                loss = criterion(logits, shares)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            steps += 1
            ctx.report(Progress("learn", round(1000 * part), 1000, f"loss {loss.item():.3f}"))
    return MethodState(
        VERSION,
        {
            "slices": prepared.to_json(),
            "rank": options.rank,
            "log_shares": prior.flatten().tolist(),
        },
        {k: v.cpu() for k, v in named("learned", learned_tensors(sam)).items()},
        {**prepared.summary, "image size": size, "training steps": steps},
    )


def enough_pixels(slicings: Sequence[SliceGeometry], most: int) -> int:
    """Side of the encoder's image in pixels: MAGNIFICATION for a pixel of the largest slice, and
    `most` at most. The time of a step goes with its square."""
    wanted = max(
        MAGNIFICATION * longest_side(slicing) / min(slicing.spacing_in_plane)
        for slicing in slicings
    )
    return min(math.ceil(wanted / MULTIPLE) * MULTIPLE, most)


def log_shares(cases: Sequence[SlicedCase], structures: Sequence[Structure]) -> Tensor:
    """Logarithm of the shares of all voxels that background and structures have in the support,
    (N + 1, 1, 1). They are added to the logits: SAM's decoder has no bias of its own, all its masks
    begin alike, and a short training would be spent on unlearning structures everywhere."""
    values = [structure.label for structure in structures]
    counts = [sum(int((case.labels == value).sum()) for case in cases) for value in values]
    total = sum(case.labels.size for case in cases)
    shares = torch.tensor([total - sum(counts), *counts]) / total
    return shares.clamp(min=LEAST_SHARE).log()[:, None, None]


def rate(part: float) -> float:
    """The learning rate, relative to the largest, when `part` of the training is done."""
    if part < WARM_UP:
        return (part + 0.01) / (WARM_UP + 0.01)
    return max((1 - part) / (1 - WARM_UP), 0.0) ** DECAY


def _batch(
    cases: Sequence[SlicedCase], structures: Sequence[Structure], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) and shares of background and structures (B, N + 1, S, S): augmented
    slices, two of three from among those that show a structure."""
    images, labels = [], []
    for _ in range(BATCH):
        case = cases[int(rng.integers(len(cases)))]
        from_ = case.labelled if rng.random() < 2 / 3 else np.arange(case.count)
        index = int(rng.choice(from_))
        image, masks = augment(case.prepared.image(index), case.masks(index, structures), rng)
        background = np.clip(1 - masks.sum(axis=0, keepdims=True), 0, 1)
        images.append(torch.from_numpy(image))
        labels.append(torch.from_numpy(np.concatenate([background, masks])))
    return torch.stack(images), torch.stack(labels)
