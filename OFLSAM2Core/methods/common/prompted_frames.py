"""Frames prompted with masks, and others predicted from them through a backbone's memory.

Support slices and a volume's slices are the frames of one video, as the SAM2 family has it. On SAM2
backbones the masks are those of `SAM2VideoPredictor` for the same frames and prompts (a test holds
the two together). LiteMedSAM has no mask decoder that reads memory: there the masks are what its
memory attention, as it is before any training, reads out of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, Decoded, ImageFeatures, LearnedAttention, Memory
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError, TaskError
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics, probe_slices
from OFLSAM2Core.methods.common.sliced_volume import (
    SlicedVolume,
    SliceFeatures,
    SlicePreparation,
)
from OFLSAM2Core.methods.common.support_memory import SupportMemory, descriptor, spread
from OFLSAM2Core.runtime.named_tensors import named, part_of

VERSION = 1

REACH = 15
"""Frames back from which SAM2 takes object pointers; memory features come from the last 6."""

MOST_SLICES = 120
"""Support slices that a task keeps, over all cases."""


class PromptedFrames:
    """The memory of one video: predicted frames by number; prompts are given with each call."""

    def __init__(self, backbone: Backbone, attention: LearnedAttention | None = None) -> None:
        self._backbone = backbone
        self._attention = attention
        self._predicted: dict[int, Memory] = {}
        self._reads_masks = backbone.attended_channels == backbone.memory_channels

    @torch.no_grad()
    def predict(
        self,
        frame: int,
        features: ImageFeatures,
        prompts: Sequence[tuple[int, Memory]],
        direction: int = 1,
    ) -> Tensor:
        """Probabilities (N, 4h, 4w) of frame number `frame`, which is remembered after that.

        prompts: number and memory of the conditioning frames, at least one. direction: 1 where the
        video is followed forwards, -1 backwards; what lies ahead is not remembered.
        """
        recent = [
            (back, self._predicted[frame - direction * back])
            for back in range(1, REACH + 1)
            if frame - direction * back in self._predicted
        ]
        offsets = [(frame - number) * direction for number, _ in prompts]
        read = self._backbone.attend(
            features,
            [memory for _, memory in prompts],
            recent[:6] if self._reads_masks else recent,
            self._attention,
            support_offsets=[each if each >= 0 else None for each in offsets],
        )
        decoded: Decoded | None = None
        if self._reads_masks:
            masks = F.pixel_shuffle(read, int(self._backbone.memory_channels**0.5))
            probabilities = (masks[:, 0] / 2 + 0.5).clamp(0, 1)
            kept = (probabilities > 0.5).float()  # Soft masks would fade from slice to slice.
        else:
            decoded = self._backbone.decode(features, read)
            logits = _shown(decoded)
            probabilities = logits[:, 0].sigmoid()
            size = self._backbone.image_size
            square = F.interpolate(logits, size=(size, size), mode="bilinear")
            kept = square[:, 0].sigmoid()
        memory = self._backbone.remember(features, kept[:, None], decoded)
        if self._attention is not None:
            memory = self._attention.compress(memory)
        self._predicted[frame] = memory
        return probabilities

    def forget_beyond(self, *frames: int) -> None:
        """Drop what lies farther than memory reaches from each of these frames."""
        for number in list(self._predicted):
            if all(abs(number - frame) > REACH for frame in frames):
                del self._predicted[number]


def _shown(decoded: Decoded) -> Tensor:
    """Logits as SAM2 shows and remembers them: of a structure that is not there, far below 0."""
    from OFLSAM2Core.backbones.sam2_backbone import shown_logits

    return shown_logits(decoded)


@dataclass(frozen=True)
class PromptState:
    """The support slices that may become prompted frames, and how volumes are shown."""

    slices: SlicePreparation
    memory: SupportMemory
    attention: LearnedAttention | None

    @classmethod
    def learn(
        cls,
        ctx: Context,
        support: Sequence[SupportCase],
        slicing_axis: str,
        intensity_window: str,
        choose: Callable[[list[int]], list[int] | None],
    ) -> PromptState:
        """Encode labelled slices of the support; nothing is trained.

        choose: which of a case's labelled slices are kept; None: all, of very many an even part.
        """
        backbone = ctx.needed_backbone
        prepared, cases = SlicePreparation.learn(
            support, backbone.image_size, slicing_axis, intensity_window
        )
        structures = support[0].structures
        with ctx.seeded():
            attention = backbone.new_attention()
        if attention is not None:
            attention = attention.eval().requires_grad_(False).to(backbone.device)
        memories, descriptors, numbers = [], [], []
        for number, case in enumerate(cases):
            indices = case.labelled.tolist()
            indices = choose(indices) or spread(indices, MOST_SLICES // len(cases))
            features = SliceFeatures(backbone, case)
            statistics = _statistics(ctx, case, features)
            for done, index in enumerate(indices):
                ctx.report(Progress("encode", done, len(indices), case.name))
                with ctx.timings.stage("encode"):
                    own = statistics.standardise(features(index))
                masks = torch.from_numpy(case.masks(index, structures))[:, None]
                memory = backbone.remember(own, masks.to(backbone.device))
                memories.append(memory if attention is None else attention.compress(memory))
                descriptors.append(descriptor(own.normalized_embedding))
                numbers.append(number)
                features.drop(index)
        support_memory = SupportMemory(
            memories,
            torch.stack(descriptors),
            torch.ones(len(memories), dtype=torch.bool, device=backbone.device),
            torch.tensor(numbers, device=backbone.device),
        )
        return cls(prepared, support_memory, attention)

    def encode(self) -> MethodState:
        tensors = named("memory", self.memory.to_tensors())
        if self.attention is not None:
            tensors |= named("attention", self.attention.state_dict())
        return MethodState(
            VERSION,
            {"slices": self.slices.to_json()},
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            {**self.slices.summary, "support slices": len(self.memory.memories)},
        )

    @classmethod
    def decode(cls, ctx: Context, state: MethodState) -> PromptState:
        """Raises TaskError where the state is of another version or lacks a part."""
        if state.version != VERSION:
            raise TaskError(
                f"What the task learned has version {state.version}; this program reads {VERSION}.",
                "Learn the task again from the support cases.",
            )
        device = ctx.needed_backbone.device
        tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        try:
            with ctx.seeded():
                attention = ctx.needed_backbone.new_attention()
            if attention is not None:
                attention.load_state_dict(part_of(tensors, "attention"))
                attention = attention.eval().requires_grad_(False).to(device)
            memory = SupportMemory.from_tensors(part_of(tensors, "memory"))
            return cls(SlicePreparation.from_json(state.metadata["slices"]), memory, attention)
        except (KeyError, RuntimeError) as error:
            raise TaskError(
                "The learned task lacks a part, or a part has another shape.",
                "Learn it again from the support cases.",
            ) from error


@dataclass(frozen=True)
class Visit:
    """One slice's turn. direction: as `PromptedFrames.predict` takes it. prompts: frame number and
    number of the support slice; the volume's own slices are the frames from 0 on."""

    index: int
    direction: int
    prompts: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Query:
    """What a plan may ask of the volume. descriptor: of a slice, (D,), by index. probes: indices of
    slices spread over the volume, whose features are known already."""

    count: int
    is_sequence: bool
    probes: Sequence[int]
    memory: SupportMemory
    descriptor: Callable[[int], Tensor]


Plan = Callable[[Query], Iterable[Visit]]


class PromptedRun:
    """One volume being segmented as a video, its slices visited as a plan says."""

    def __init__(self, ctx: Context, volume: Volume, task: LearnedTask, plan: Plan) -> None:
        self.ctx, self.plan = ctx, plan
        self.structures: Sequence[Structure] = task.structures
        self.learned = PromptState.decode(ctx, task.state)
        self.volume = self.learned.slices.apply(volume)

    @torch.no_grad()
    def slices(self) -> Iterator[SliceResult]:
        """Each slice once."""
        ctx, count, memories = self.ctx, self.volume.count, self.learned.memory.memories
        encoded = SliceFeatures(ctx.needed_backbone, self.volume)
        statistics = _statistics(ctx, self.volume, encoded)

        def features(index: int) -> ImageFeatures:
            with ctx.timings.stage("encode"):
                return statistics.standardise(encoded(index))

        query = Query(
            count,
            self.volume.is_sequence,
            probe_slices(count),
            self.learned.memory,
            lambda index: descriptor(features(index).normalized_embedding),
        )
        frames = PromptedFrames(ctx.needed_backbone, self.learned.attention)
        start: int | None = None
        for done, visit in enumerate(self.plan(query)):
            start = visit.index if start is None else start
            ctx.report(Progress("segment", done, count))
            prompts = [(number, memories[which]) for number, which in visit.prompts]
            own = features(visit.index)
            with ctx.timings.stage("decode"):
                probabilities = frames.predict(visit.index, own, prompts, visit.direction)
            with ctx.timings.stage("write"):
                result, _ = self.volume.result(visit.index, probabilities, self.structures)
            yield result
            encoded.drop(visit.index)
            frames.forget_beyond(start, visit.index)
        ctx.report(Progress("segment", count, count))

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        """Raises InputError: nothing here learns from corrections yet."""
        raise InputError(
            "This method does not learn from corrections.",
            "Use the method ofl-sam2-atlas, or correct the result by hand.",
        )

    def state(self) -> MethodState:
        return self.learned.encode()


def _statistics(ctx: Context, volume: SlicedVolume, features: SliceFeatures) -> FeatureStatistics:
    """Of a volume's features, from slices spread over it."""
    indices = probe_slices(volume.count)
    for done, index in enumerate(indices):
        ctx.report(Progress("encode", done, len(indices), "looking through the volume"))
        with ctx.timings.stage("encode"):
            features(index)
    return FeatureStatistics.of_volume(
        volume.count, features, volume.prepared.valid_region, ctx.needed_backbone.image_size
    )


def from_middle(count: int, backwards_first: bool = False) -> list[tuple[int, int]]:
    """Index and direction of all slices from the middle to one end, then to the other."""
    middle = count // 2
    forwards = [(index, 1) for index in range(middle, count)]
    backwards = [(index, -1) for index in range(middle - 1, -1, -1)]
    if backwards_first:
        return [(middle, -1), *backwards, *forwards[1:]]
    return forwards + backwards


def before_the_volume(slices: Sequence[int]) -> list[tuple[int, int]]:
    """Support slices as the frames before the volume's first, in the given order."""
    return [(int(at), which) for at, which in zip(np.arange(-len(slices), 0), slices, strict=True)]
