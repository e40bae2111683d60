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
    """A slice of which not all is known. components: (C, h, w). predicted: before anything was
    corrected, (N, S, S) in [0, 1]; it counts where nothing is known. Else as `CorrectedSlice`."""

    components: Tensor
    detail: Tensor
    predicted: Tensor
    slice_position: float | None
    prior: Tensor | None
    known: Tensor


@dataclass(frozen=True, eq=False)
class CorrectedSlice:
    """A slice as it is learned from. embedding: (C, h, w), standardised. detail: (1, S, S). masks:
    (N, S, S), known: (S, S), in [0, 1]. prior: (N, S, S), without what this slice says; None where
    there is none."""

    embedding: Tensor
    detail: Tensor
    masks: Tensor
    known: Tensor
    slice_position: float | None
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
    others: some of the volume's slices of which not all is known."""
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
    rows = model.mapping.features.rows(each.embedding[None], each.slice_position or 0.0, some)
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
    """The head, its last layer trained on by the slices as far as that helps a corrected slice that
    is left out. All before the last layer stays, and is calculated once: training all of it takes
    five times as long and helps less. A single slice trains nothing: it cannot be left out, and did
    harm to one volume of three."""
    if len(slices) < 2:
        return model.head
    corrected = _of_corrected(model, slices, own, weights)
    kept = _of_others(model, mapping, others) if others else None
    total, done = config.RELEARN_STEPS * (len(slices) + 1), 0

    def on_own_step() -> None:
        nonlocal done
        done += 1
        on_step(done, total)

    wrong = torch.zeros(len(config.RELEARN_SHARES))
    for n in range(len(slices)):
        rest = [m for m in range(len(slices)) if m != n]
        trained = _trained(model.head, corrected.some(rest), kept, on_own_step)
        for k, share in enumerate(config.RELEARN_SHARES):
            wrong[k] += corrected.some([n]).wrong(_between(model.head, trained, share))
    share = config.RELEARN_SHARES[int(wrong.argmin())]
    if share == 0:
        return model.head
    return _between(model.head, _trained(model.head, corrected, kept, on_own_step), share)


@dataclass(frozen=True)
class _Inputs:
    """Slices as the last layer sees them. last: (B, WIDTH, h, w), fine: as `Head.forward`. truth:
    (B, N, S, S) in [0, 1]. positions: weights of the features' positions, (B, N, h * w)."""

    last: Tensor
    fine: Tensor
    truth: Tensor
    positions: Tensor

    def some(self, which: Sequence[int]) -> _Inputs:
        index = list(which)
        return _Inputs(self.last[index], self.fine[index], self.truth[index], self.positions[index])

    def wrong(self, head: Head) -> Tensor:
        """Pixels that a head predicts wrongly, weighted."""
        with torch.no_grad():
            predicted = head.from_last(self.last, self.fine) > 0
        wrong = (predicted != (self.truth > 0.5)).float()
        return (wrong * self.on_image).sum()

    @property
    def on_image(self) -> Tensor:
        """The weights on the image's grid, (B, N, S, S)."""
        side = tuple(self.last.shape[-2:])
        return F.interpolate(self.positions.unflatten(-1, side), size=self.truth.shape[-2:])


def _of_corrected(
    model: Model,
    slices: Sequence[CorrectedSlice],
    own: Sequence[NormalEquations],
    weights: Sequence[Tensor],
) -> _Inputs:
    features = model.mapping.features
    lasts, fines = [], []
    for n, each in enumerate(slices):
        # By a mapping network that does not know the slice, as it does not know the others.
        rest = [m for m in range(len(slices)) if m != n]
        known = added(model.equations, [own[m] for m in rest], [weights[m] for m in rest])
        components = features(each.embedding[None])
        mapped = Mapping(features, known.closed_form())(components, each.slice_position)
        last, fine = _seen(
            model.head, components, each.detail, mapped, each.prior, each.slice_position
        )
        lasts.append(last)
        fines.append(fine)
    truth = torch.stack([each.masks for each in slices])
    near = torch.stack([near_foreground_mask(each, lasts[0].shape[-1]) for each in truth])
    known_share = torch.stack([each.known_positions for each in slices])[:, None]
    has = torch.stack([each.has for each in slices])[:, :, None]
    positions = model.balance.weights(near) * known_share * has
    return _Inputs(torch.cat(lasts), torch.cat(fines), truth, positions)


def _of_others(model: Model, mapping: Mapping, others: Sequence[UncorrectedSlice]) -> _Inputs:
    lasts, fines = [], []
    for one in others:
        mapped = mapping(one.components, one.slice_position)
        last, fine = _seen(
            model.head, one.components, one.detail, mapped, one.prior, one.slice_position
        )
        lasts.append(last)
        fines.append(fine)
    before = torch.stack([one.predicted for one in others])
    near = torch.stack([near_foreground_mask(each, lasts[0].shape[-1]) for each in before])
    known_share = torch.stack([F.avg_pool2d(one.known[None], BLOCK).flatten() for one in others])
    positions = model.balance.weights(near) * (1 - known_share)[:, None]
    return _Inputs(torch.cat(lasts), torch.cat(fines), before, positions)


def _seen(
    head: Head,
    components: Tensor,
    detail: Tensor,
    mapped: Tensor,
    prior: Tensor | None,
    slice_position: float | None,
) -> tuple[Tensor, Tensor]:
    """What the last layer sees of a slice, and the fine maps."""
    known = torch.zeros_like(mapped) if prior is None else prior
    fine = torch.cat([detail, mapped, known])[None]
    with torch.no_grad():
        return head.to_last(components[None], fine, [slice_position]), fine


def _trained(
    before: Head, corrected: _Inputs, kept: _Inputs | None, on_step: Callable[[], None]
) -> Head:
    """kept: slices of which the head is to predict what it predicted before (Li and Hoiem, Learning
    without Forgetting, 2016): slices without a structure would take it from all."""
    head = copy.deepcopy(before)
    learned = _last_layer(head)
    for parameter in learned:
        parameter.requires_grad_(True)
    balance = None if kept is None else kept.on_image
    steps, rate = config.RELEARN_STEPS, config.RELEARN_RATE
    optimiser = torch.optim.Adam(learned, rate)
    for step in range(steps):
        logits = head.from_last(corrected.last, corrected.fine)
        loss = segmentation_loss(logits, corrected.truth, corrected.positions)
        if kept is not None:
            again = head.from_last(kept.last, kept.fine)
            loss = loss + config.REMEMBER * F.binary_cross_entropy_with_logits(
                again, kept.truth, balance
            )
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimiser.step()
        on_step()
    return head.requires_grad_(False)


def _between(before: Head, after: Head, share: float) -> Head:
    """A head whose last layer has gone so much of the way."""
    head = copy.deepcopy(before)
    with torch.no_grad():
        for own, end in zip(_last_layer(head), _last_layer(after), strict=True):
            own.lerp_(end, share)
    return head


def _last_layer(head: Head) -> list[torch.nn.Parameter]:
    return [*head.u_net.leave.parameters(), head.gain, head.offset]
