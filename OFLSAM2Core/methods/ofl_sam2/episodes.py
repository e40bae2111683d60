"""Training of fusion, in episodes that imitate segmenting a new volume.

A query slice sees memory of the *other* support cases only, the mapping network fitted without its
own case, and its neighbour slice as predicted, not as labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from OFLSAM2Core.backbones.base import Backbone, Memory
from OFLSAM2Core.methods.ofl_sam2.adaptive_fusion import AdaptiveFusion
from OFLSAM2Core.methods.ofl_sam2.levels import LevelError
from OFLSAM2Core.methods.ofl_sam2.mapping_network import FeatureHead, mapped
from OFLSAM2Core.methods.ofl_sam2.retrieval import most_similar
from OFLSAM2Core.methods.ofl_sam2.side_by_side import SideBySide
from OFLSAM2Core.methods.ofl_sam2.support_set import SupportSlice
from OFLSAM2Core.methods.options import MethodOptions
from OFLSAM2Core.results import Progress, ProgressCallback

BATCH = 2
"""Query slices a step. More steps of fewer slices learn faster in the same time."""

MOST_STRUCTURES = 3
"""Structures decoded for a query slice in a step; decoding is what a step costs."""

QUICKER = 5.0
"""How much faster the few weights are learned that weigh decoder and branches."""

FROM_NEIGHBOUR = 0.75
"""How often the neighbour slice is remembered: not always, for at test time it may have been
refused by the quality gate."""

SHIFT, FIELD, FIELD_GRID = 1.5, 6.0, 8
"""Disturbance of the neighbour's predicted logits: deviation of the shift, largest deviation of
the smooth field, points along its side."""

NOWHERE = -10.0
"""Logit of a structure that was not decoded yet."""


class Episodes:
    """The training of fusion and attention over encoded support slices."""

    def __init__(
        self,
        backbone: Backbone,
        slices: Sequence[SupportSlice],
        head: FeatureHead,
        tau_without: dict[int, Tensor],
        level_error: LevelError,
        options: MethodOptions,
        rng: np.random.Generator,
    ) -> None:
        """tau_without: the mapping network fitted without a case, by case. level_error: how
        wrong levels will be in a new volume."""
        self.backbone = backbone
        self.slices = slices
        self.head = head
        self.tau_without = tau_without
        self.level_error = level_error
        self.options = options
        self.rng = rng
        self.fusion = AdaptiveFusion.for_backbone(backbone).to(backbone.device)
        attention = backbone.new_attention()
        self.attention = None if attention is None else attention.to(backbone.device)
        self._predicted: dict[int, Tensor] = {}
        self._candidates = self._retrieve_from_other_cases()

    def train(self, on_progress: ProgressCallback) -> None:
        """AdamW on Dice + cross-entropy through the frozen decoder."""
        modules = nn.ModuleList([m for m in (self.fusion, self.attention) if m is not None])
        steps = self.options.steps_for(len(self.slices), BATCH)
        quick = self.fusion.readout()
        others = [p for p in modules.parameters() if all(p is not each for each in quick)]
        rates = [self.options.learning_rate, QUICKER * self.options.learning_rate]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": quick, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, rates[0])
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rates, total_steps=max(steps, 2), pct_start=0.1
        )
        order: list[int] = []
        mean_loss = 0.0
        with SideBySide(self.backbone.device, BATCH) as side_by_side:
            for step in range(steps):
                if len(order) < BATCH:
                    order = list(self.rng.permutation(len(self.slices)))
                queries = [int(order.pop()) for _ in range(BATCH)]
                optimiser.zero_grad()
                loss = self._backward(queries, side_by_side)
                optimiser.step()
                schedule.step()
                mean_loss += (loss - mean_loss) / min(step + 1, 50)
                on_progress(Progress("learn", step + 1, steps, f"loss {mean_loss:.3f}"))
        modules.eval().requires_grad_(False)

    def _backward(self, queries: list[int], side_by_side: SideBySide) -> float:
        """The loss of a batch, whose gradient is added to the parameters'.

        Dice is one for the whole batch, so its gradient is taken at the logits first, and from
        there through each query's own graph.
        """
        structures = self._some_structures(queries)
        # Each has its own random numbers: which thread is first must not matter.
        draws = [(n, np.random.default_rng(self.rng.integers(2**32))) for n in queries]
        decoded = side_by_side.each(lambda draw: self._decode(*draw, structures), draws)
        logits = torch.stack([each.detach() for each in decoded]).requires_grad_()
        truth = torch.stack([self.slices[n].masks[structures] for n in queries])
        loss = segmentation_loss(logits, truth.to(logits.device).float() / 255)
        (gradient,) = torch.autograd.grad(loss, logits)
        pairs = list(zip(decoded, gradient, strict=True))
        side_by_side.each(lambda pair: pair[0].backward(pair[1]), pairs)
        for number, found in zip(queries, logits.detach(), strict=True):
            self._remember_prediction(number, structures, found)
        return loss.item()

    def _remember_prediction(self, number: int, structures: list[int], logits: Tensor) -> None:
        size = (len(self.slices[number].masks), *logits.shape[-2:])
        unknown = torch.full(size, NOWHERE, dtype=torch.float16)
        self._predicted.setdefault(number, unknown)[structures] = logits.cpu().half()

    def _decode(self, number: int, rng: np.random.Generator, structures: list[int]) -> Tensor:
        """Logits (N, 4h, 4w) of a query slice."""
        query = self.slices[number]
        level = self.level_error.disturbed(query.level, rng)
        features = query.features(self.backbone, level)
        attended = predicted = None
        if self.options.use_memory:
            support = [
                self.slices[n].memory(self.backbone).of(structures)
                for n in self._some_memories(number, rng)
            ]
            recent = self._neighbour(number, structures, rng)
            attention = self.attention
            if attention is not None:
                attention = attention.seeded(int(rng.integers(2**32)))
            attended = self.backbone.attend(features, support, recent, attention)
        if self.options.use_mapping:
            rows = self.head.rows(features.comparable, level)
            predicted = mapped(rows, self.tau_without[query.case][structures])
        target = self.fusion(features, attended, predicted, self.options.use_fusion)
        decoded = self.backbone.decode(features, target).logits[:, 0]
        return self.fusion.logits(decoded, attended, predicted)

    def _some_structures(self, queries: list[int]) -> list[int]:
        """Those in the slices first, then others: a structure must also learn where it is not."""
        present = torch.stack([self.slices[n].present for n in queries]).any(dim=0).numpy()
        draw = self.rng.random(len(present)) - present * self.rng.random(len(present))
        return sorted(int(i) for i in np.argsort(draw)[:MOST_STRUCTURES])

    def _retrieve_from_other_cases(self) -> list[list[int]]:
        """For each slice, twice K similar slices of other cases (never augmented copies)."""
        originals = [n for n, s in enumerate(self.slices) if s.copy == 0]
        found = []
        for query in self.slices:
            others = [n for n in originals if self.slices[n].case != query.case] or originals
            bank = torch.stack([self.slices[n].descriptor for n in others])
            levels = torch.tensor([self.slices[n].level for n in others], device=bank.device)
            best = most_similar(
                query.descriptor, query.level, bank, levels, 2 * self.options.memories
            )
            found.append([others[i] for i in best])
        return found

    def _some_memories(self, number: int, rng: np.random.Generator) -> list[int]:
        """K of them, not always the best: a new volume has no perfect match either."""
        candidates = self._candidates[number]
        return [int(n) for n in rng.permutation(candidates)[: self.options.memories]]

    def _neighbour(
        self, number: int, structures: list[int], rng: np.random.Generator
    ) -> list[tuple[int, Memory]]:
        if self.options.recent == 0 or rng.random() > FROM_NEIGHBOUR:
            return []
        query = self.slices[number]
        beside = number + int(rng.choice([-1, 1]))
        if beside not in self._predicted:
            return []
        if (self.slices[beside].copy, self.slices[beside].case) != (query.copy, query.case):
            return []
        features = self.slices[beside].features(self.backbone)
        logits = self._predicted[beside][structures].to(self.backbone.device).float()
        masks = _resize(disturbed(logits, rng).sigmoid(), self.backbone.image_size)
        return [(1, self.backbone.remember(features, masks[:, None]))]


def disturbed(logits: Tensor, rng: np.random.Generator) -> Tensor:
    """Predictions (N, h, w) as wrong as they are on a new volume.

    On the support predictions soon are nearly right, and memory of them would be believed
    blindly: on new volumes mistakes then grew from slice to slice (left atrium: volumes 1.1 to
    1.4 times too large). So they are shifted as a whole and by a random smooth field.
    """
    field = rng.normal(0, rng.uniform(0, FIELD), (1, len(logits), FIELD_GRID, FIELD_GRID))
    smooth = F.interpolate(
        torch.from_numpy(field).to(logits), size=logits.shape[-2:], mode="bicubic"
    )[0]
    return logits + rng.normal(0, SHIFT) + smooth


def segmentation_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice + cross-entropy. logits (B, N, h, w), truth (B, N, S, S) in [0, 1].

    Dice is taken over the batch, so that slices without the structure count where they should:
    in its false positives.
    """
    truth = F.interpolate(truth, size=logits.shape[-2:], mode="area")
    probabilities = logits.sigmoid()
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    either = probabilities.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, truth)


def _resize(maps: Tensor, size: int) -> Tensor:
    if maps.shape[-1] == size:
        return maps
    return F.interpolate(maps[None], size=(size, size), mode="bilinear", align_corners=False)[0]
