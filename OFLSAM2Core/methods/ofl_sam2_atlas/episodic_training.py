"""Training of readout and fusion, in episodes that imitate segmenting a new volume.

A query slice sees memory of the *other* support cases only, the mapping network fitted without its
own case, and its neighbour slice as predicted, not as labelled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures, Memory
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.methods.common.bf16_autocast import bf16_autocast
from OFLSAM2Core.methods.common.class_balance import PositionWeights, near_foreground_mask
from OFLSAM2Core.methods.common.mapping_network import PcaFeatureMap
from OFLSAM2Core.methods.common.parallel_backward import ParallelBackward
from OFLSAM2Core.methods.ofl_sam2_atlas.adaptive_fusion import AdaptiveFusion
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.retrieval import most_similar
from OFLSAM2Core.methods.ofl_sam2_atlas.segmentation_head import SegmentationHead, head_inputs
from OFLSAM2Core.methods.ofl_sam2_atlas.support_encoding import SupportSlice
from OFLSAM2Core.slice_position.regression import PositionNoise, SlicePosition

BATCH = 8
"""Query slices a step."""

DECODED = 2
"""Of them go through attention and the decoder, forth and back. In videos, where the readout has
no U-Net, a step has no others."""

DECODED_EVERY = 8
"""Only every so many steps go through the decoder where there is a U-Net to learn as well: it
learns six slices while one goes through the decoder."""

MOST_STRUCTURES = 3
"""Structures decoded for such a slice."""

QUICKER = 2.0
"""How much faster the readout is learned."""

FROM_NEIGHBOUR = 0.75
"""How often the neighbour slice is remembered: not always, for at test time it may have been
refused by the quality gate."""

FOUND_AGAIN = 0.5
"""How often the level of a query is nearly right, as at the second reading."""

HEARD = 0.9
"""How often it then hears what the other cases say, too: registration may be switched off."""

BALANCED = 0.7
"""Share of the steps in which positions near small structures count more, so that these are found
at all. Then all count the same: else too much is believed, and small structures are drawn too
large."""

SHIFT, FIELD, FIELD_GRID = 1.5, 6.0, 8
"""Disturbance of the neighbour's predicted logits: deviation of the shift, largest deviation of
the smooth field, points along its side."""


class EpisodicTrainer:
    """The training of readout, fusion and attention over encoded support slices."""

    def __init__(
        self,
        backbone: Backbone,
        slices: Sequence[SupportSlice],
        head: PcaFeatureMap,
        tau_without: dict[int, Tensor],
        balance: PositionWeights,
        level_error: PositionNoise,
        options: LearnOptions,
        rng: np.random.Generator,
        readout_alone: bool = False,
    ) -> None:
        """tau_without: the mapping network fitted without a case, by case. level_error: how
        wrong levels will be in a new volume. readout_alone: of the readout, at levels found
        again."""
        self.backbone = backbone
        self.slices = slices
        self.head = head
        self.tau_without = tau_without
        self.balance = balance
        self.level_error = level_error
        self.options = options
        self.rng = rng
        self.readout_alone = readout_alone
        self.fusion = AdaptiveFusion.for_backbone(backbone).to(backbone.device)
        self.readout = SegmentationHead.for_backbone(
            backbone, head, len(slices[0].masks), uses_atlas_prior=slices[0].voted is not None
        ).to(backbone.device)
        attention = backbone.new_attention()
        self.attention = None if attention is None else attention.to(backbone.device)
        self._predicted: dict[int, Tensor] = {}
        self._mapped_before = [False] * len(slices)
        side, tau = backbone.feature_size, next(iter(tau_without.values()))
        self._mapped_features = torch.empty(
            (len(slices), len(tau), tau.shape[2], side, side), dtype=torch.float16
        )
        self._candidates = self._retrieve_from_other_cases()

    def train(self, on_progress: ProgressCallback) -> None:
        """AdamW on Dice + cross-entropy, for some queries through the frozen decoder."""
        learned = [m for m in (self.fusion, self.attention) if m is not None]
        batch = min(DECODED if self.readout.u_net is None else BATCH, len(self.slices))
        steps = self.options.steps_for(len(self.slices), batch)
        rates = [self.options.learning_rate, QUICKER * self.options.learning_rate]
        groups = [
            {"params": [p for module in learned for p in module.parameters()]},
            {"params": list(self.readout.parameters())},
        ]
        optimiser = torch.optim.AdamW(groups, rates[0])
        # The tenth in which the rate rises ends at step steps / 10 - 1, by which torch divides.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rates, total_steps=max(steps, 11), pct_start=0.1
        )
        parameters = [p for group in groups for p in group["params"]]
        order: list[int] = []
        mean_loss = 0.0
        with ParallelBackward(self.backbone.device, DECODED) as side_by_side:
            for step in range(steps):
                if len(order) < batch:
                    order = list(self.rng.permutation(len(self.slices)))
                queries = [int(order.pop()) for _ in range(batch)]
                through_decoder = not self.readout_alone and (
                    self.readout.u_net is None or step % DECODED_EVERY == 0
                )
                balance = self.balance if step < BALANCED * steps else self.balance.even()
                loss = self._backward(queries, through_decoder, balance, parameters, side_by_side)
                optimiser.step()
                schedule.step()
                mean_loss += (loss - mean_loss) / min(step + 1, 50)
                on_progress(Progress("learn", step + 1, steps, f"loss {mean_loss:.3f}"))
        for module in (*learned, self.readout):
            module.eval().requires_grad_(False)

    def _backward(
        self,
        queries: list[int],
        through_decoder: bool,
        balance: PositionWeights,
        parameters: Sequence[Tensor],
        side_by_side: ParallelBackward,
    ) -> float:
        """The loss of a batch, whose gradient becomes the parameters'. The queries are worked on in
        DECODED parts, each on its own thread."""
        structures = self._some_structures(queries[:DECODED]) if through_decoder else []
        # Each part has its own random numbers: which thread is first must not matter.
        parts = [
            (queries[i::DECODED], np.random.default_rng(self.rng.integers(2**32)))
            for i in range(min(DECODED, len(queries)))
        ]
        device = self.backbone.device
        truth = torch.stack([self.slices[n].masks for n in queries]).to(device).float() / 255
        near = torch.stack([near_foreground_mask(t, self.backbone.feature_size) for t in truth])
        weights = balance.weights(near)
        loss, logits = side_by_side.backward(
            lambda part: self._logits(*part, structures),
            parts,
            lambda logits: segmentation_loss(logits, truth, weights),
            parameters,
        )
        for number, predicted in zip(queries, logits, strict=True):
            self._predicted[number] = predicted.cpu().half()
        return loss

    def _logits(
        self, queries: list[int], rng: np.random.Generator, structures: list[int]
    ) -> Tensor:
        """Logits (B, N, 4h, 4w) of query slices; of the first, `structures`, if any,
        go through the decoder."""
        slices = [self.slices[n] for n in queries]
        levels = [self._found(each.level, rng) for each in slices]
        features = [
            each.features(self.backbone, level.value)
            for each, level in zip(slices, levels, strict=True)
        ]
        predicted = None
        if self.options.mapping_branch:
            predicted = torch.stack(
                [self._mapped(n, f) for n, f in zip(queries, features, strict=True)]
            )
        seen = head_inputs(features, self.head)
        voted = self._voted(slices, levels, rng)
        with bf16_autocast(self.backbone.device):
            read = self.readout(seen, levels, predicted, voted).float()
        if not structures:
            return read
        attended = None
        if self.options.use_memory:
            attended = self._attend(queries[0], features[0], structures, rng)
        known = None if predicted is None else predicted[0, structures]
        target = self.fusion(features[0], attended, known, self.options.use_fusion)
        decoded = self.backbone.decode(features[0], target).logits[:, 0]
        first = self.readout.with_decoder(read[0], structures, decoded, attended)
        return torch.cat([first[None], read[1:]])

    def _voted(
        self,
        slices: Sequence[SupportSlice],
        levels: Sequence[SlicePosition],
        rng: np.random.Generator,
    ) -> Tensor | None:
        """What other cases say of the slices, (B, N, 4h, 4w), as it will be known in a new volume:
        at the second reading, with the levels."""
        heard = []
        for each, level in zip(slices, levels, strict=True):
            if each.voted is None:
                return None
            told = level.again and rng.random() < HEARD
            heard.append(each.voted.to(self.backbone.device).float() / 255 * told)
        return torch.stack(heard)

    def _found(self, level: float, rng: np.random.Generator) -> SlicePosition:
        """A level as it will be known in a new volume, at first or at the second reading."""
        again = self.readout_alone or rng.random() < FOUND_AGAIN
        error = self.level_error.found_again if again else self.level_error
        return SlicePosition(error.disturbed(level, rng), again)

    def _mapped(self, number: int, features: ImageFeatures) -> Tensor:
        """What the mapping network fitted without a slice's case says of it: (N, M, h, w). The
        features' part is the same every time, and kept; the level is not."""
        tau = self.tau_without[self.slices[number].case]
        if not self._mapped_before[number]:
            found = self.head.mapped_features(self.head(features.normalized_embedding), tau)
            self._mapped_features[number] = found
            self._mapped_before[number] = True
        found = self._mapped_features[number].to(features.normalized_embedding)
        return self.head.with_level(found, tau, features.level)

    def _attend(
        self, number: int, features: ImageFeatures, structures: list[int], rng: np.random.Generator
    ) -> Tensor:
        """Memory of other cases, and of a neighbour as predicted, read out: (n, ..., h, w)."""
        support = [
            self.slices[n].memory(self.backbone).of(structures)
            for n in self._some_memories(number, rng)
        ]
        recent = self._neighbour(number, structures, rng)
        attention = self.attention
        if attention is not None:
            attention = attention.seeded(int(rng.integers(2**32)))
        return self.backbone.attend(features, support, recent, attention)

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
                query.descriptor, query.level, bank, levels, 2 * self.options.retrieved_slices
            )
            found.append([others[i] for i in best])
        return found

    def _some_memories(self, number: int, rng: np.random.Generator) -> list[int]:
        """K of them, not always the best: a new volume has no perfect match either."""
        candidates = self._candidates[number]
        return [int(n) for n in rng.permutation(candidates)[: self.options.retrieved_slices]]

    def _neighbour(
        self, number: int, structures: list[int], rng: np.random.Generator
    ) -> list[tuple[int, Memory]]:
        if self.options.recent_slices == 0 or rng.random() > FROM_NEIGHBOUR:
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


def segmentation_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Dice + cross-entropy. logits (B, N, h, w), truth (B, N, S, S) in [0, 1], weights
    (B, N, positions) on the features' grid.

    Dice is taken over the batch, so that slices without the structure count where they should:
    in its false positives. Without weights a U-Net soon draws nothing of organs that fill a
    thousandth of a slice: what little it believes everywhere outweighs them.
    """
    truth = F.interpolate(truth, size=logits.shape[-2:], mode="area")
    side = int(weights.shape[-1] ** 0.5)
    weights = F.interpolate(weights.unflatten(-1, (side, side)), size=logits.shape[-2:])
    probabilities = logits.sigmoid()
    both = (weights * probabilities * truth).sum(dim=(0, 2, 3))
    either = (weights * (probabilities + truth)).sum(dim=(0, 2, 3))
    dice = 1 - (2 * both + 1) / (either + 1)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, truth, weights)


def _resize(maps: Tensor, size: int) -> Tensor:
    if maps.shape[-1] == size:
        return maps
    return F.interpolate(maps[None], size=(size, size), mode="bilinear", align_corners=False)[0]
