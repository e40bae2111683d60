"""Segmenting a volume: from the slice most similar to the support, outwards both ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, Decoded, ImageFeatures
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import FRAME_AXIS, SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.methods.common.class_balance import near_foreground_mask
from OFLSAM2Core.methods.common.feature_cache import FeatureCache
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics, probe_slices
from OFLSAM2Core.methods.common.mapping_network import sample_positions
from OFLSAM2Core.methods.common.propagation_order import propagation_order
from OFLSAM2Core.methods.ofl_sam2_atlas.memory_bank import RecentMemory
from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.quality_gate import confident_structures
from OFLSAM2Core.methods.ofl_sam2_atlas.refinement import RefinementPass
from OFLSAM2Core.methods.ofl_sam2_atlas.retrieval import AWAY, descriptor
from OFLSAM2Core.methods.ofl_sam2_atlas.segmentation_head import head_inputs
from OFLSAM2Core.methods.ofl_sam2_atlas.state import AtlasMethodState, Metadata
from OFLSAM2Core.methods.ofl_sam2_atlas.views import ExtraViews, SlicePrediction
from OFLSAM2Core.methods.ofl_sam2_atlas.volume_pass import SlicePosterior, VolumePass
from OFLSAM2Core.postprocessing.confidence import (
    calibrated,
    slice_confidence,
    soft_label_competition,
)
from OFLSAM2Core.postprocessing.dice_threshold import moved_to_half
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.runtime.timings import Timings
from OFLSAM2Core.slice_position.regression import PositionScale, SlicePosition


class Propagation:
    """One volume being segmented: its memory and its mapping network change as it goes."""

    def __init__(
        self,
        backbone: Backbone,
        prepared: PreprocessedVolume,
        other_looks: ExtraViews,
        slicing: SliceGeometry,
        structures: Sequence[Structure],
        metadata: Metadata,
        tensors: dict[str, Tensor],
        options: SegmentOptions,
        timings: Timings,
    ) -> None:
        self.backbone = backbone
        self.prepared = prepared
        self.other_looks = other_looks
        self.structures = structures
        self.metadata = metadata
        self.options = options
        self.timings = timings
        self.slicing = slicing
        self.count = slicing.count
        self.parts = AtlasMethodState.from_tensors(tensors, backbone)
        if other_looks.across and len(self.parts.across) != len(other_looks.across):
            raise TaskError(
                "The learned task lacks what was learned from slices along another axis.",
                "Learn it again from the support cases.",
            )
        self.mapping = self.parts.mapping
        self._encoded = FeatureCache(backbone, prepared)
        self._statistics: FeatureStatistics | None = None
        self._scale: PositionScale | None = None
        self._probabilities = ProbabilityVolume.empty(
            len(structures), self.count, 4 * backbone.feature_size
        )
        self._second_reading = RefinementPass(self.parts.readout)

    @torch.no_grad()
    def run(self, on_progress: ProgressCallback) -> Iterator[SlicePrediction]:
        """Results in the order of `propagation_order`, each as soon as it is ready."""
        start = self._most_similar_slice(on_progress)
        upwards = RecentMemory(self.options.recent_slices)
        downwards = RecentMemory(self.options.recent_slices)
        for done, (index, direction) in enumerate(propagation_order(start, self.count)):
            on_progress(Progress("segment", done, self.count))
            recents = {1: [upwards], -1: [downwards], 0: [upwards, downwards]}[direction]
            result = self._segment_slice(index, recents)
            self._encoded.forget(index)
            yield result
        on_progress(Progress("segment", self.count, self.count))
        if self.slicing.orientation != FRAME_AXIS:
            yield from self._finished(on_progress)

    def _finished(self, on_progress: ProgressCallback) -> Iterator[SlicePrediction]:
        """All slices again, once all are known."""
        assert self._scale is not None
        finish = VolumePass(
            self.backbone,
            self.prepared,
            self.other_looks,
            self.slicing,
            self.structures,
            self.metadata,
            self.parts,
            self._second_reading,
            self.options,
            self.timings,
        )
        for each in finish.run(self._probabilities, self._scale, on_progress):
            with self.timings.stage("write"):
                result, _ = self._result(each)
            yield replace(result, revision=1)

    def _most_similar_slice(self, on_progress: ProgressCallback) -> int:
        """Look at slices spread over the volume, for its statistics and for where to start."""
        indices = probe_slices(self.count)
        for done, index in enumerate(indices):
            on_progress(Progress("encode", done, len(indices), "looking through the volume"))
            self._encode(index)
        self._statistics = FeatureStatistics.of_volume(
            self.count, self._encode, self.prepared.valid_region, self.backbone.image_size
        )
        found = {i: descriptor(self._standardised(i).normalized_embedding)[0] for i in indices}
        if self.slicing.orientation != FRAME_AXIS:
            step = self.slicing.slice_spacing
            self._scale = self.parts.levels.find(
                torch.stack(list(found.values())), [i * step for i in found], self.count * step
            )
        memory = self.parts.memory
        shows = [bool((m.features.amax(dim=(-2, -1)) > 0).any()) for m in memory.memories]
        bank = memory.descriptors[torch.tensor(shows, device=memory.descriptors.device)]
        bank = bank if len(bank) else memory.descriptors
        # An end of the volume may look like some support slice by chance: the middle goes first.
        similarity = [
            float((bank @ found[index]).max()) - AWAY * self._standardised(index).level ** 2
            for index in indices
        ]
        return indices[int(np.argmax(similarity))]

    def _segment_slice(self, index: int, recents: list[RecentMemory]) -> SlicePrediction:
        features = self._standardised(index)
        attended = mapped = None
        if self.options.use_memory:
            with self.timings.stage("attend"):
                attended = self._attend(features, index, recents[0])
        with self.timings.stage("fuse"):
            seen = head_inputs([features], self.mapping.head)
            components = seen[0, : len(self.mapping.head.basis)]
            if self.options.mapping_branch:
                mapped = self.mapping.of_components(components, features.level)
            target = self.parts.fusion(features, attended, mapped, self.options.use_fusion)
            known = None if mapped is None else mapped[None]
            read = self.parts.readout(seen, [SlicePosition(features.level)], known)[0]
        with self.timings.stage("decode"):
            decoded = self.backbone.decode(features, target)
            structures = list(range(len(read)))
            logits = self.parts.readout.with_decoder(
                read, structures, decoded.logits[:, 0], attended
            )
            there = logits.new_ones(len(logits))
            if decoded.object_score is not None:
                there = (decoded.object_score > 0).to(logits.dtype)
            probabilities = logits.sigmoid() * there[:, None, None]
        if self.slicing.orientation != FRAME_AXIS:
            self._second_reading.keep(index, seen, logits - read, there)
        with self.timings.stage("write"):
            result, scores = self._result(
                SlicePosterior(index, self.prepared.to_grid(probabilities))
            )
            self._probabilities.put(index, probabilities)
        trusted = confident_structures(scores, self.options)
        with self.timings.stage("update"):
            self._learn_from(index, features, decoded, probabilities, trusted, recents)
        return result

    def _attend(self, features: ImageFeatures, index: int, recent: RecentMemory) -> Tensor:
        support = self.parts.memory.retrieve(
            descriptor(features.normalized_embedding)[0],
            features.level,
            self.options.retrieved_slices,
        )
        count = len(self.structures)
        read: list[Tensor | None] = [None] * count
        for structures, positions in recent.groups(count):
            near = [
                (abs(index - position), recent.together(position, structures))
                for position in positions
            ]
            chosen = [memory.of(structures) for memory in support]
            found = self.backbone.attend(features, chosen, near, self.parts.attention)
            for place, structure in enumerate(structures):
                read[structure] = found[place]
        return torch.stack([each for each in read if each is not None])

    def _result(self, read: SlicePosterior) -> tuple[SlicePrediction, Tensor]:
        """Labels and confidence, and S_cf of every structure."""
        probabilities = read.probabilities.clamp(0, 1)
        shared = decisive = soft_label_competition(probabilities)
        if read.thresholds is not None:
            decisive = soft_label_competition(moved_to_half(probabilities, read.thresholds))
        which = decisive.argmax(dim=0, keepdim=True)
        shown = calibrated(shared, read.temperature).gather(0, which)[0]
        scores = slice_confidence(shared, decisive)
        if read.sure is not None:
            scores = scores * read.sure
        values = torch.tensor([0, *(s.label for s in self.structures)], dtype=torch.uint8)
        result = SlicePrediction(
            index=read.index,
            labels=values[which[0].cpu()].numpy(),
            confidence=(shown * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy(),
            scores={
                structure.name: round(float(score), 4)
                for structure, score in zip(self.structures, scores, strict=True)
            },
        )
        return result, scores

    def _learn_from(
        self,
        index: int,
        features: ImageFeatures,
        decoded: Decoded,
        probabilities: Tensor,
        trusted: list[int],
        recents: list[RecentMemory],
    ) -> None:
        """What the quality gate lets through enters memory and updates the mapping network."""
        if not trusted:
            return
        size = self.backbone.image_size
        masks = F.interpolate(
            probabilities[:, None], size=(size, size), mode="bilinear", align_corners=False
        )
        memory = self.backbone.remember(features, masks, decoded)
        kept = memory
        if self.parts.attention is not None:
            kept = self.parts.attention.compress(memory)
        for recent in recents:
            recent.add(index, kept, trusted)
        if self.options.mapping_branch and self.options.update != "none":
            remembered = memory.features.flatten(2)
            # Other positions in every slice, the same in every run.
            some = sample_positions(remembered.shape[-1], np.random.default_rng(index))
            some = some.to(remembered.device)
            rows = self.mapping.head.rows(features.normalized_embedding, features.level, some)
            near = near_foreground_mask(masks[:, 0], self.backbone.feature_size)
            self.mapping = self.mapping.update(
                rows,
                remembered[..., some],
                near[:, some],
                trusted,
                self.options.iterations_update,
            )

    def _encode(self, index: int) -> ImageFeatures:
        with self.timings.stage("encode"):
            return self._encoded(index)

    def _standardised(self, index: int) -> ImageFeatures:
        assert self._statistics is not None
        features = self._statistics.standardise(self._encode(index))
        if self._scale is None:
            return features
        return replace(features, level=self._scale.level(index * self.slicing.slice_spacing))
