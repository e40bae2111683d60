"""Segmenting a volume or a sequence slice by slice, as OFL-SAM2 does it online.

For each slice: encode (frozen), read the memory bank out (E1), apply the mapping network (E2), fuse
both (E_tar), decode (frozen), judge (S_cf); and where S_cf > gamma, put the slice into the memory
bank and update the mapping network with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Decoded, ImageFeatures
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.methods.base import Context, MethodState, refuse_corrections
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics, statistics_slices
from OFLSAM2Core.methods.common.sliced_volume import SliceFeatures, outwards
from OFLSAM2Core.methods.common.support_memory import descriptor
from OFLSAM2Core.methods.ofl_sam2.memory_bank import RecentMemory, confident_structures
from OFLSAM2Core.methods.ofl_sam2.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2.state import OflSam2State


class OflSam2Run:
    """One volume being segmented: its memory bank and its mapping network change as it goes."""

    def __init__(
        self,
        ctx: Context,
        volume: Volume,
        structures: Sequence[Structure],
        state: OflSam2State,
        options: SegmentOptions,
    ) -> None:
        self.ctx, self.structures, self.learned, self.options = ctx, structures, state, options
        self.backbone = ctx.needed_backbone
        self.volume = state.slices.apply(volume)
        self.mapping = state.mapping
        self._encoded = SliceFeatures(ctx.needed_backbone, self.volume)
        self._statistics: FeatureStatistics | None = None

    @torch.no_grad()
    def slices(self) -> Iterator[SliceResult]:
        """A sequence in its own order; a volume from the slice most similar to the support
        outwards, both ways in turn, each with recent slices of its own."""
        count = self.volume.count
        self._read_statistics()
        ahead, back = (
            RecentMemory(self.options.recent_slices),
            RecentMemory(self.options.recent_slices),
        )
        order = outwards(0 if self.volume.is_sequence else self._start(), count)
        for done, (index, direction) in enumerate(order):
            self.ctx.report(Progress("segment", done, count))
            yield self._segment(index, {1: [ahead], -1: [back], 0: [ahead, back]}[direction])
            self._encoded.drop(index)
        self.ctx.report(Progress("segment", count, count))

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections("ofl-sam2")

    def state(self) -> MethodState:
        """What was learned from the support; a volume's own slices teach for that volume only."""
        return self.learned.encode()

    def _segment(self, index: int, recents: list[RecentMemory]) -> SliceResult:
        timings = self.ctx.timings
        features = self._features(index)
        attended = mapped = None
        if self.options.memory_branch:
            with timings.stage("attend"):
                attended = self._attend(features, index, recents[0])
        with timings.stage("fuse"):
            if self.options.mapping_branch:
                mapped = self.mapping(features.normalized_embedding)
            target = self.learned.trained.fusion(
                features.embedding, attended, mapped, self.options.adaptive_fusion
            )
        with timings.stage("decode"):
            decoded = self.backbone.decode(features, target)
            probabilities = decoded.logits[:, 0].sigmoid()
            if decoded.object_score is not None:
                probabilities = probabilities * (decoded.object_score > 0)[:, None, None]
        with timings.stage("write"):
            result, scores = self.volume.result(index, probabilities, self.structures)
        with timings.stage("update"):
            confident = confident_structures(scores, self.options.gamma, self.options.update)
            if confident:
                self._learn_from(index, features, probabilities, decoded, confident, recents)
        return result

    def _attend(self, features: ImageFeatures, index: int, recent: RecentMemory) -> Tensor:
        """E1 before the lift: memory attention over K retrieved and the recent slices."""
        retrieved = self.learned.memory.retrieve(
            descriptor(features.normalized_embedding), self.options.retrieved_slices
        )
        count = len(self.structures)
        read: dict[int, Tensor] = {}
        for structures, near in recent.groups(count):
            found = self.backbone.attend(
                features,
                [memory.of(structures) for memory in retrieved],
                [(abs(index - position), memory) for position, memory in near],
                self.learned.trained.attention,
            )
            read.update(zip(structures, found, strict=True))
        return torch.stack([read[structure] for structure in range(count)])

    def _learn_from(
        self,
        index: int,
        features: ImageFeatures,
        probabilities: Tensor,
        decoded: Decoded,
        confident: list[int],
        recents: list[RecentMemory],
    ) -> None:
        """Online update of memory bank and mapping network by a slice that passed the gate."""
        size = self.backbone.image_size
        masks = F.interpolate(probabilities[:, None], size=(size, size), mode="bilinear")
        memory = self.backbone.encode_memory(features, masks, decoded)
        if self.options.mapping_branch:
            self.mapping = self.mapping.update(
                features.normalized_embedding,
                memory.features,
                confident,
                self.options.iterations_update,
            )
        attention = self.learned.trained.attention
        kept = memory if attention is None else attention.project_memory(memory)
        for recent in recents:
            recent.add(index, kept, confident)

    def _read_statistics(self) -> None:
        """Mean and deviation of features over the volume, from slices spread over it."""
        indices = statistics_slices(self.volume.count)
        for done, index in enumerate(indices):
            self.ctx.report(Progress("encode", done, len(indices), "looking through the volume"))
            self._encode(index)
        self._statistics = FeatureStatistics.of_volume(
            self.volume.count,
            self._encode,
            self.volume.prepared.valid_region,
            self.backbone.image_size,
        )

    def _start(self) -> int:
        """The slice, among those encoded so far, that is most similar to a support slice with
        structures."""
        memory = self.learned.memory
        return max(
            statistics_slices(self.volume.count),
            key=lambda i: memory.likeness(descriptor(self._features(i).normalized_embedding)),
        )

    def _encode(self, index: int) -> ImageFeatures:
        with self.ctx.timings.stage("encode"):
            return self._encoded(index)

    def _features(self, index: int) -> ImageFeatures:
        assert self._statistics is not None
        return self._statistics.standardise(self._encode(index))
