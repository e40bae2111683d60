"""Offline training of what is not fitted: G_theta, the lift, and LiteMedSAM's memory projection.

Encoder, memory and mask decoder stay frozen. An episode imitates a new volume: a query slice of one
support case is segmented with memory retrieved from the other cases and with the mapping network
fitted to the other cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import LearnedAttention, Memory
from OFLSAM2Core.data.results import Progress
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.support_memory import most_similar
from OFLSAM2Core.methods.ofl_sam2.adaptive_fusion import AdaptiveFusion
from OFLSAM2Core.methods.ofl_sam2.mapping_network import MappingNetwork, NormalEquations
from OFLSAM2Core.methods.ofl_sam2.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2.support_encoding import EncodedSlice

BATCH = 2
"""Queries a step; others were not measured."""

MOST_EPOCHS = 40
"""How often each slice is seen at most, so that few slices are not learned by heart
(docs/decisions/0004)."""

MOST_STRUCTURES = 4
"""Structures of a query that go through the decoder in a step."""

WITH_NEIGHBOUR = 0.5
"""How often the predicted neighbour of a query is in memory: in a new volume the quality gate may
have kept it out."""

SHIFT = 1.5
"""Standard deviation of the noise that is added to the neighbour's logits. In training they soon
are nearly right, which they never are on a new volume; without noise the memory would be trusted
too much there."""


@dataclass(frozen=True)
class Trained:
    """What the offline branch and the fusion learned. attention: None on SAM2."""

    fusion: AdaptiveFusion
    attention: LearnedAttention | None


def support_equations(
    ctx: Context, slices: Sequence[EncodedSlice], kernel: int
) -> dict[int, NormalEquations]:
    """The mapping network's samples, each fold's by itself: mean over its slices."""
    sums: dict[int, NormalEquations] = {}
    counts: dict[int, int] = {}
    for done, each in enumerate(slices):
        ctx.report(Progress("learn", done, len(slices), "fitting the mapping network"))
        features = each.features(ctx.needed_backbone).normalized_embedding
        own = NormalEquations.of_slice(features, each.memory(ctx.needed_backbone).features, kernel)
        sums[each.fold] = sums[each.fold].plus(own) if each.fold in sums else own
        counts[each.fold] = counts.get(each.fold, 0) + 1
    return {fold: both.plus(both, 1 / counts[fold], 0.0) for fold, both in sums.items()}


def mean_of(equations: Sequence[NormalEquations]) -> NormalEquations:
    """Every fold counts the same."""
    total = equations[0]
    for each in equations[1:]:
        total = total.plus(each)
    return total.plus(total, 1 / len(equations), 0.0)


class Training:
    """Episodes over the encoded support slices."""

    def __init__(
        self,
        ctx: Context,
        slices: Sequence[EncodedSlice],
        equations: dict[int, NormalEquations],
        options: LearnOptions,
    ) -> None:
        self.ctx, self.slices, self.options = ctx, slices, options
        self.backbone, self.rng = ctx.needed_backbone, ctx.rng()
        self._mapping = {
            fold: MappingNetwork.fit(
                mean_of([e for other, e in equations.items() if other != fold] or [own]),
                options.kernel,
                options.iterations_learning,
                options.closed_form,
            )
            for fold, own in equations.items()
        }
        self._predicted: dict[tuple[int, ...], Tensor] = {}
        self._by_place = {(s.case, s.copy, s.index): s for s in slices}

    def run(self) -> Trained:
        """AdamW on Dice and cross-entropy through the frozen decoder, by PyTorch's own generator as
        the caller has seeded it."""
        device, options = self.backbone.device, self.options
        seed = int(self.rng.integers(2**32))
        fusion = AdaptiveFusion.for_backbone(self.backbone, seed).to(device)
        attention = self.backbone.new_attention()
        if attention is not None:
            attention = attention.to(device).train()
        modules = [m for m in (fusion, attention) if m is not None]
        parameters = [p for module in modules for p in module.parameters()]
        steps = min(options.training_steps, -(-MOST_EPOCHS * len(self.slices) // BATCH))
        optimiser = torch.optim.AdamW(parameters, options.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        order: list[int] = []
        mean_loss = 0.0
        for step in range(steps):
            if len(order) < BATCH:
                order += self.rng.permutation(len(self.slices)).tolist()
            queries = [self.slices[order.pop()] for _ in range(min(BATCH, len(self.slices)))]
            optimiser.zero_grad()
            loss = self._loss(queries, Trained(fusion, attention))
            loss.backward()
            optimiser.step()
            schedule.step()
            mean_loss += (float(loss.detach()) - mean_loss) / min(step + 1, 50)
            self.ctx.report(Progress("learn", step + 1, steps, f"loss {mean_loss:.3f}"))
        for module in modules:
            module.eval().requires_grad_(False)
        return Trained(fusion, attention)

    def _loss(self, queries: Sequence[EncodedSlice], trained: Trained) -> Tensor:
        structures = self._some_structures(queries)
        logits, truth = [], []
        for query in queries:
            logits.append(self._logits(query, structures, trained))
            truth.append(query.masks[structures].to(self.backbone.device).float() / 255)
        return segmentation_loss(torch.stack(logits), torch.stack(truth))

    def _logits(self, query: EncodedSlice, structures: list[int], trained: Trained) -> Tensor:
        """(n, 4h, 4w) of the structures, both branches as on a new volume."""
        features = query.features(self.backbone)
        attended = mapped = None
        if self.options.memory_branch:
            support = [memory.of(structures) for memory in self._retrieved(query)]
            neighbour = self._neighbour(query, structures)
            attended = self.backbone.attend(features, support, neighbour, trained.attention)
        if self.options.mapping_branch:
            mapped = self._mapping[query.fold](features.normalized_embedding)[structures]
        target = trained.fusion(features.embedding, attended, mapped, self.options.adaptive_fusion)
        logits = self.backbone.decode(features, target).logits[:, 0]
        kept = logits.detach().half().cpu()
        for number, structure in enumerate(structures):
            self._predicted[query.case, query.copy, query.index, structure] = kept[number]
        return logits

    def _some_structures(self, queries: Sequence[EncodedSlice]) -> list[int]:
        """A few structures where there are many. Those in the slices come first, but not only they:
        it must also be learned where a structure is not."""
        present = torch.stack([q.masks.flatten(1).amax(dim=1) > 127 for q in queries]).any(dim=0)
        draw = self.rng.random(len(present)) - present.numpy() * self.rng.random(len(present))
        return sorted(int(i) for i in np.argsort(draw)[:MOST_STRUCTURES])

    def _retrieved(self, query: EncodedSlice) -> list[Memory]:
        """K of the 2 K most similar slices of other folds: a new volume has no perfect match."""
        others = [s for s in self.slices if s.fold != query.fold and s.copy == 0]
        others = others or [s for s in self.slices if s.copy == 0]
        bank = torch.stack([s.descriptor for s in others])
        wanted = self.options.retrieved_slices
        best = self.rng.permutation(most_similar(query.descriptor, bank, 2 * wanted))
        return [others[i].memory(self.backbone) for i in best[:wanted]]

    def _neighbour(self, query: EncodedSlice, structures: list[int]) -> list[tuple[int, Memory]]:
        """The slice before or behind the query with its last prediction and noise; empty where that
        slice was not encoded or not predicted yet."""
        rng = self.rng
        place = query.case, query.copy, query.index + int(rng.choice([-1, 1]))
        known = [self._predicted.get((*place, structure)) for structure in structures]
        beside = self._by_place.get(place)
        if beside is None or self.options.recent_slices == 0 or rng.random() > WITH_NEIGHBOUR:
            return []
        if any(each is None for each in known):
            return []
        logits = torch.stack([k for k in known if k is not None]).to(self.backbone.device).float()
        size = self.backbone.image_size
        masks = F.interpolate((logits + rng.normal(0, SHIFT)).sigmoid()[:, None], size=(size, size))
        return [(1, self.backbone.encode_memory(beside.features(self.backbone), masks))]


def segmentation_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice + cross-entropy. logits (B, N, h, w), truth (B, N, S, S) in [0, 1].

    Dice is taken over the batch, so that slices without the structure count where they should: in
    its false positives.
    """
    truth = F.interpolate(truth, size=logits.shape[-2:], mode="area")
    probabilities = logits.sigmoid()
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    either = (probabilities + truth).sum(dim=(0, 2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, truth)
