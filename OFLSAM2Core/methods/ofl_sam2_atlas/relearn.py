"""Learning from the corrected slices of a volume: the mapping network exactly, by its normal
equations, and the head's last layer by some steps from where the support has brought it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.methods.common.class_balance import near_foreground_mask
from OFLSAM2Core.methods.common.high_pass import BLOCK
from OFLSAM2Core.methods.common.mapping_network import (
    NormalEquations,
    NormalEquationsAccumulator,
)
from OFLSAM2Core.methods.common.segmentation_loss import segmentation_loss
from OFLSAM2Core.methods.ofl_sam2_atlas import config
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Head, Mapping
from OFLSAM2Core.methods.ofl_sam2_atlas.mapping import wanted_of
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class UncorrectedSlice:
    """A slice of which nothing is known. components: (C, h, w). predicted: before anything was
    corrected, (N, S, S) in [0, 1]. Else as `CorrectedSlice`."""

    components: Tensor
    detail: Tensor
    predicted: Tensor
    level: float | None
    prior: Tensor | None


@dataclass(frozen=True, eq=False)
class CorrectedSlice:
    """A slice as it is learned from. embedding: (C, h, w), standardised. detail: (1, S, S). masks:
    (N, S, S), known: (S, S), in [0, 1]. prior: (N, S, S), without what this slice says; None where
    there is none."""

    embedding: Tensor
    detail: Tensor
    masks: Tensor
    known: Tensor
    level: float | None
    prior: Tensor | None

    @property
    def known_positions(self) -> Tensor:
        """Share of each position of the features that is known, (h * w,)."""
        return F.avg_pool2d(self.known[None], BLOCK).flatten()

    @property
    def is_known(self) -> Tensor:
        """Positions of the features that are known for the greater part, (h * w,) bool."""
        return self.known_positions > 0.5

    @property
    def has(self) -> Tensor:
        """Which structures it has, (N,) in {0, 1}. Nothing is learned of the others: that a slice
        has no larynx shows little of where the larynx is."""
        return (self.masks.flatten(1).amax(dim=1) > 0.5).float()

    @property
    def weights(self) -> Tensor:
        """Weight of this slice beside one that is known as a whole, for each structure, (N,)."""
        return self.has * self.known_positions.mean()


def relearned(
    model: Model,
    slices: Sequence[CorrectedSlice],
    others: Sequence[UncorrectedSlice],
    on_step: OnStep,
) -> Model:
    """The model after learning from the slices; those of which too little is known are left out.
    others: some of the volume's slices of which nothing is known."""
    slices = [each for each in slices if bool(each.is_known.any())]
    if not slices:
        return model
    own = [equations_of(model, each) for each in slices]
    weights = [each.weights for each in slices]
    equations = added(model.equations, own, weights)
    mapping = Mapping(model.mapping.features, equations.closed_form())
    head = trained_on(model, mapping, slices, others, own, weights, on_step)
    return replace(model, mapping=mapping, equations=equations, head=head)


def equations_of(model: Model, each: CorrectedSlice) -> NormalEquations:
    """Normal equations of the known positions of a slice."""
    some = each.is_known.nonzero()[:, 0]
    rows = model.mapping.features.rows(each.embedding[None], each.level or 0.0, some)
    near = near_foreground_mask(each.masks, each.embedding.shape[-1])
    total = NormalEquationsAccumulator()
    total.add(rows, wanted_of(each.masks)[..., some], near[:, some], model.balance)
    return total.mean()


def added(
    support: NormalEquations, own: Sequence[NormalEquations], weights: Sequence[Tensor]
) -> NormalEquations:
    """The support's equations and those of corrected slices, weighted so that the mean stays one.
    SUPPORT_AS corrected slices count as much as all of the support. weights: of each slice, by
    structure, (N,)."""
    gram, moment = config.SUPPORT_AS * support.gram, config.SUPPORT_AS * support.moment
    total = torch.full((len(gram), 1, 1), float(config.SUPPORT_AS), dtype=gram.dtype)
    for each, by_structure in zip(own, weights, strict=True):
        weight = by_structure[:, None, None]
        gram = gram + weight * each.gram
        moment = moment + weight * each.moment
        total = total + weight
    return NormalEquations(gram / total, moment / total)


def trained_on(
    model: Model,
    mapping: Mapping,
    slices: Sequence[CorrectedSlice],
    others: Sequence[UncorrectedSlice],
    own: Sequence[NormalEquations],
    weights: Sequence[Tensor],
    on_step: OnStep,
) -> Head:
    """The head, its last layer trained on by the slices. All before it stays, and is calculated
    once: training all of it takes five times as long and helps less. In the others it is to predict
    what it predicted before (Li and Hoiem, Learning without Forgetting, 2016): one corrected slice
    without a structure would take it from all."""
    head, features = copy.deepcopy(model.head), model.mapping.features
    lasts, fines = [], []
    for n, each in enumerate(slices):
        # By a mapping network that does not know the slice, as it does not know the others.
        rest = [m for m in range(len(slices)) if m != n]
        known = added(model.equations, [own[m] for m in rest], [weights[m] for m in rest])
        components = features(each.embedding[None])
        mapped = Mapping(features, known.closed_form())(components, each.level)
        prior = torch.zeros_like(mapped) if each.prior is None else each.prior
        fine = torch.cat([each.detail, mapped, prior])[None]
        with torch.no_grad():
            lasts.append(head.to_last(components[None], fine, [each.level]))
        fines.append(fine)
    last, fine = torch.cat(lasts), torch.cat(fines)
    truth = torch.stack([each.masks for each in slices])
    near = torch.stack([near_foreground_mask(each, last.shape[-1]) for each in truth])
    known_share = torch.stack([each.known_positions for each in slices])[:, None]
    has = torch.stack([each.has for each in slices])[:, :, None]
    positions = model.balance.weights(near) * known_share * has
    kept_last, kept_fine = [], []
    for one in others:
        mapped = mapping(one.components, one.level)
        prior = torch.zeros_like(mapped) if one.prior is None else one.prior
        seen = torch.cat([one.detail, mapped, prior])[None]
        with torch.no_grad():
            kept_last.append(head.to_last(one.components[None], seen, [one.level]))
        kept_fine.append(seen)
    learned = [*head.u_net.leave.parameters(), head.gain, head.offset]
    for parameter in learned:
        parameter.requires_grad_(True)
    if others:
        last_of_others, fine_of_others = torch.cat(kept_last), torch.cat(kept_fine)
        before = torch.stack([one.predicted for one in others])
        near_before = torch.stack([near_foreground_mask(each, last.shape[-1]) for each in before])
        side = (last.shape[-1], last.shape[-1])
        balance = F.interpolate(
            model.balance.weights(near_before).unflatten(-1, side), size=before.shape[-2:]
        )
    steps, rate = config.RELEARN_STEPS, config.RELEARN_RATE
    optimiser = torch.optim.Adam(learned, rate)
    for step in range(steps):
        loss = segmentation_loss(head.from_last(last, fine), truth, positions)
        if others:
            again = head.from_last(last_of_others, fine_of_others)
            loss = loss + config.REMEMBER * F.binary_cross_entropy_with_logits(
                again, before, balance
            )
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimiser.step()
        on_step(step + 1, steps)
    return head.requires_grad_(False)
