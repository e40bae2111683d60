"""Both stages of training, within the time of one processor core.

First the general encoder is distilled from the backbone while the medical one learns to register
and to segment; then both learn from each other by a mutual moving average, and from atlases that
are warped with their labels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceLoss
from monai.transforms import Compose, RandAdjustContrastd, RandAffined, RandGaussianNoised
from torch import Tensor, nn

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.initial_shares import begin_at_shares
from OFLSAM2Core.methods.common.sliced_volume import SlicedVolume, SlicePreparation
from OFLSAM2Core.methods.common.training_clock import training_clock
from OFLSAM2Core.methods.common.volume_on_grid import Coverage, grey_on_grid, middle_of
from OFLSAM2Core.methods.rrl_medsam import RrlMedSamLearnOptions
from OFLSAM2Core.methods.rrl_medsam.distillation import (
    backbone_features,
    distillation_loss,
    mutual_ema,
)
from OFLSAM2Core.methods.rrl_medsam.networks import DISTILLED, FlowDecoder
from OFLSAM2Core.methods.rrl_medsam.registration import registration_loss, warped
from OFLSAM2Core.methods.rrl_medsam.segmentation import VERSION, Branches
from OFLSAM2Core.runtime.named_tensors import named

UNLABELLED = 0.5
"""How often the target of a step is an unlabelled volume; others were not measured."""

ROTATION = np.deg2rad(10)
SCALE = 0.1
"""Largest rotation (radians) and relative change of size of augmented copies, either way, as the
paper's lab has it."""


@dataclass(frozen=True)
class GridCase:
    """A volume on the grid. image: (1, D, H, W) in [0, 1]. labels: (N + 1, D, H, W), share of each
    cell that is background and each structure; None of an unlabelled volume. teacher, inside: see
    `backbone_features`."""

    image: Tensor
    labels: Tensor | None
    teacher: Tensor
    inside: Tensor


@dataclass(frozen=True)
class Pair:
    """Two augmented cases: images (1, 1, D, H, W), labels (1, N + 1, D, H, W). The target may be
    unlabelled."""

    atlas: Tensor
    atlas_labels: Tensor
    target: Tensor
    target_labels: Tensor | None


@dataclass(frozen=True)
class Registered:
    """A pair after registration. loss: of the registration. image, labels: the atlas's, warped to
    the target. atlas, target: the medical encoder's levels of both."""

    loss: Tensor
    image: Tensor
    labels: Tensor
    atlas: list[Tensor]
    target: list[Tensor]


def train(
    ctx: Context, support: Sequence[SupportCase], options: RrlMedSamLearnOptions
) -> MethodState:
    """Both branches, trained on the support and on unlabelled volumes until the time, or the number
    of steps, is over."""
    prepared, grid, cases = on_grid(ctx, support, options)
    unlabelled = [_unlabelled(ctx, prepared.apply(each), grid) for each in ctx.unlabelled]
    with ctx.seeded():
        trainer = Trainer(ctx, cases, options, unlabelled)
        steps = 0
        for part in training_clock(options.core_minutes, options.training_steps):
            loss = trainer.step(distilling=part < options.distillation_share)
            steps += 1
            ctx.report(Progress("learn", round(1000 * part), 1000, f"loss {loss:.3f}"))
    tensors = named("branches", trainer.branches.state_dict())
    return MethodState(
        VERSION,
        {"slices": prepared.to_json(), "spacing": grid.spacing, "width": options.width},
        {name: tensor.detach().cpu() for name, tensor in tensors.items()},
        {**prepared.summary, "training steps": steps},
    )


def on_grid(
    ctx: Context, support: Sequence[SupportCase], options: RrlMedSamLearnOptions
) -> tuple[SlicePreparation, IsotropicGrid, list[GridCase]]:
    """The support on one grid that holds every case, each around its own middle."""
    prepared, sliced = SlicePreparation.learn(
        support,
        ctx.needed_backbone.image_size,
        options.slicing_axis,
        options.intensity_window,
    )
    extents = [np.multiply(case.slicing.shape, case.slicing.steps) for case in sliced]
    finest = min(min(case.slicing.steps) for case in sliced)
    grid = IsotropicGrid.holding(np.max(extents, axis=0).tolist(), finest, options.grid_side**3)
    values = [structure.label for structure in support[0].structures]
    cases = []
    for case in sliced:
        middle = middle_of(case)
        image, _ = grey_on_grid(grid, case, middle)
        covered, inside = grid.show(Coverage(case.labels, values), case.slicing, middle)
        covered = covered * inside
        background = (1 - covered.sum(dim=0, keepdim=True)).clamp(min=0)
        labels = torch.cat([background, covered])
        teacher = backbone_features(ctx, case, grid, middle, case.name)
        cases.append(GridCase(image, labels, *teacher))
    return prepared, grid, cases


def _unlabelled(ctx: Context, volume: SlicedVolume, grid: IsotropicGrid) -> GridCase:
    """On the support's grid, around the volume's own middle; what lies beyond is left out."""
    middle = middle_of(volume)
    image, _ = grey_on_grid(grid, volume, middle)
    teacher = backbone_features(ctx, volume, grid, middle, "volumes without labels")
    return GridCase(image, None, *teacher)


class Trainer:
    """The networks, what they learn from, and one step of learning."""

    def __init__(
        self,
        ctx: Context,
        cases: Sequence[GridCase],
        options: RrlMedSamLearnOptions,
        unlabelled: Sequence[GridCase] = (),
    ) -> None:
        """PyTorch's generator decides the weights."""
        self.device, self.cases, self.momentum = ctx.device, cases, options.ema
        self.unlabelled = unlabelled
        labels = [case.labels for case in cases if case.labels is not None]
        structures = len(labels[0]) - 1
        self.branches = Branches(options.width, structures).to(ctx.device)
        shares = torch.stack([each.mean(dim=(1, 2, 3)) for each in labels]).mean(dim=0)
        for decoder in (self.branches.mask, self.branches.prompted):
            begin_at_shares(decoder.leave, shares)
        # Averages of two networks make sense where they began as one.
        self.branches.medical = copy.deepcopy(self.branches.general)
        self.flow = FlowDecoder(options.width).to(ctx.device)
        width, channels = options.width * 2**DISTILLED, len(cases[0].teacher)
        self.lift = nn.Conv3d(width, channels, 1).to(ctx.device)
        self._overlap = DiceLoss()
        # With the background's Dice, half of it would be right before a structure is found.
        self._criterion = DiceCELoss(include_background=False, softmax=True, batch=True)
        learned = chain(*(part.parameters() for part in (self.branches, self.flow, self.lift)))
        self._optimiser = torch.optim.Adam(learned, options.learning_rate)
        self._rng = ctx.rng()
        self._augment = _augmentation()
        self._augment.set_random_state(int(self._rng.integers(2**31)))

    def step(self, *, distilling: bool) -> float:
        """One step of the first or of the second stage; its loss."""
        pair = self._draw()
        both = self._registered(pair)
        loss = both.loss
        if pair.target_labels is None:
            images, labels, levels = pair.atlas, pair.atlas_labels, both.atlas
        else:
            images, labels, levels = pair.target, pair.target_labels, both.target
        if distilling:
            everything = [*self.cases, *self.unlabelled]
            loss = loss + self.distance(everything[int(self._rng.integers(len(everything)))])
        else:
            if pair.target_labels is None:
                # The atlas's labels, warped, are all that is known of this volume.
                more, more_levels = pair.target, both.target
            else:
                # Warped labels fit the warped atlas exactly, whatever the flow is.
                more = both.image.detach()
                more_levels = self.branches.medical(more)
            images = torch.cat([images, more])
            labels = torch.cat([labels, both.labels.detach()])
            levels = [torch.cat(each) for each in zip(levels, more_levels, strict=True)]
        general, final = self.branches.decode(images, levels)
        loss = loss + self._criterion(general, labels) + self._criterion(final, labels)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        if not distilling:
            mutual_ema(self.branches.general, self.branches.medical, self.momentum)
        return float(loss.detach())

    def distance(self, case: GridCase) -> Tensor:
        """How far the general encoder's features of a case are from the backbone's."""
        features = self.lift(self.branches.general(case.image[None].to(self.device))[DISTILLED])
        teacher, inside = (
            each[None].to(self.device, each.dtype) for each in (case.teacher, case.inside)
        )
        return distillation_loss(features, teacher, inside)

    def _registered(self, pair: Pair) -> Registered:
        seen = self.branches.medical(torch.cat([pair.atlas, pair.target]))
        atlas, target = ([level[i : i + 1] for level in seen] for i in (0, 1))
        there, back = self.flow(target, atlas), self.flow(atlas, target)
        loss, image = registration_loss(pair.target, pair.atlas, there, back)
        labels = warped(pair.atlas_labels, there)
        if pair.target_labels is not None:
            loss = loss + self._overlap(labels[:, 1:], pair.target_labels[:, 1:])
        return Registered(loss, image, labels, atlas, target)

    def _draw(self) -> Pair:
        """Two cases, or two copies of the only one; half of the targets are unlabelled volumes, if
        there are any."""
        both = self._rng.permutation(len(self.cases))[:2]
        atlas, target = self.cases[int(both[0])], self.cases[int(both[-1])]
        if self.unlabelled and self._rng.random() < UNLABELLED:
            target = self.unlabelled[int(self._rng.integers(len(self.unlabelled)))]
        image, labels = self._copy(atlas)
        assert labels is not None
        return Pair(image, labels, *self._copy(target))

    def _copy(self, case: GridCase) -> tuple[Tensor, Tensor | None]:
        known = {"image": case.image}
        if case.labels is not None:
            known["labels"] = case.labels
        moved = {
            key: value.as_tensor()[None].float().to(self.device)
            for key, value in self._augment(known).items()
        }
        image = F.relu(moved["image"])
        if case.labels is None:
            return image, None
        labels = moved["labels"]
        # What came in from beyond the grid is background.
        beyond = (1 - labels.sum(dim=1)).clamp(min=0)
        return image, torch.cat([(labels[:, 0] + beyond)[:, None], labels[:, 1:]], dim=1)


def _augmentation() -> Compose:
    return Compose(
        [
            RandAffined(
                ["image", "labels"],
                prob=0.9,
                rotate_range=[ROTATION] * 3,
                scale_range=[SCALE] * 3,
                mode="bilinear",
                padding_mode="zeros",
                allow_missing_keys=True,
            ),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.6)),
            RandGaussianNoised("image", prob=0.3, std=0.05),
        ]
    )
