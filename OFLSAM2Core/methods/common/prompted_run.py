"""A volume segmented from labelled support slices as prompted frames, nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import ImageFeatures, LearnedAttention, Memory
from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import Progress, SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.learned_task import LearnedTask
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.base import Context, refuse_corrections
from OFLSAM2Core.methods.common.feature_normalization import FeatureStatistics, statistics_slices
from OFLSAM2Core.methods.common.mask_readout import MOST_READ, best_thresholds, read_masks
from OFLSAM2Core.methods.common.prompted_frames import PromptedFrames
from OFLSAM2Core.methods.common.reading_state import reading
from OFLSAM2Core.methods.common.sliced_volume import SlicedVolume, SliceFeatures, SlicePreparation
from OFLSAM2Core.methods.common.support_memory import SupportMemory, descriptor, spread
from OFLSAM2Core.runtime.named_tensors import named, part_of

VERSION = 3

MOST_SLICES = 120
"""Support slices that a task keeps, over all cases, where a method does not choose."""

Describe = Callable[[Tensor, ImageFeatures], Tensor]
"""What slices are compared by: from the image (1, 3, S, S) and its features to (D,)."""

Planes = npt.NDArray[np.float32]
Augment = Callable[[Planes, Planes, np.random.Generator], tuple[Planes, Planes]]
"""A copy of an image (3, S, S) and its masks (N, S, S)."""


def describe_features(image: Tensor, features: ImageFeatures) -> Tensor:
    """By the encoder's features on a coarse grid."""
    return descriptor(features.normalized_embedding)


@dataclass(frozen=True)
class SupportChoice:
    """Which support slices are kept. choose: of a case's labelled slices; None: all, of very many
    an even part. describe: what they are compared by. copies: augmented copies of each, by
    `augment`. together: how many of them prompt a slice."""

    choose: Callable[[Sequence[int]], list[int] | None]
    describe: Describe = describe_features
    copies: int = 0
    augment: Augment | None = None
    together: int = 3


@dataclass(frozen=True)
class PromptState:
    """The support slices that may become prompted frames, and how volumes are shown.

    thresholds: (N,), see `mask_readout.best_thresholds`; None where the backbone has a decoder that
    reads memory.
    """

    slices: SlicePreparation
    memory: SupportMemory
    attention: LearnedAttention | None
    thresholds: Tensor | None = None

    @classmethod
    def learn(
        cls,
        ctx: Context,
        support: Sequence[SupportCase],
        slicing_axis: str,
        intensity_window: str,
        choice: SupportChoice,
    ) -> PromptState:
        """Encode labelled slices of the support; nothing is trained."""
        backbone, rng = ctx.needed_backbone, ctx.rng()
        prepared, cases = SlicePreparation.learn(
            support, backbone.image_size, slicing_axis, intensity_window
        )
        structures = support[0].structures
        with ctx.seeded():
            attention = backbone.new_attention()
        if attention is not None:
            attention = attention.eval().requires_grad_(False).to(backbone.device)
        memories: list[Memory] = []
        descriptors, numbers, sources = [], [], []
        known: list[tuple[int, ImageFeatures, Tensor]] = []
        for number, case in enumerate(cases):
            labelled = case.labelled.tolist()
            indices = choice.choose(labelled) or spread(labelled, MOST_SLICES // len(cases))
            statistics = _statistics(ctx, case, SliceFeatures(backbone, case))
            copies = [(index, copy) for index in indices for copy in range(1 + choice.copies)]
            read = set(spread(indices, -(-MOST_READ // len(cases))))
            for done, (index, copy) in enumerate(copies):
                ctx.report(Progress("encode", done, len(copies), case.name))
                image, masks = case.prepared.image(index), case.masks(index, structures)
                if copy and choice.augment is not None:
                    image, masks = choice.augment(image, masks, rng)
                shown = torch.from_numpy(image)[None].to(backbone.device)
                with ctx.timings.stage("encode"):
                    features = statistics.standardise(backbone.encode(shown))
                there = torch.from_numpy(masks)[:, None].to(backbone.device)
                memory = backbone.encode_memory(features, there)
                if attention is not None and not copy and index in read:
                    known.append((len(memories), features, there[:, 0]))
                memories.append(memory if attention is None else attention.project_memory(memory))
                descriptors.append(choice.describe(shown, features))
                numbers.append(number)
                sources.append(index)
        support_memory = SupportMemory(
            memories,
            torch.stack(descriptors),
            torch.ones(len(memories), dtype=torch.bool, device=backbone.device),
            torch.tensor(numbers, device=backbone.device),
        )
        thresholds = None
        if attention is not None:
            with ctx.timings.stage("thresholds"):
                thresholds = _thresholds(
                    ctx, support_memory, sources, attention, known, choice.together
                )
        return cls(prepared, support_memory, attention, thresholds)

    def encode(self) -> MethodState:
        tensors = named("memory", self.memory.to_tensors())
        if self.attention is not None:
            tensors |= named("attention", self.attention.state_dict())
        if self.thresholds is not None:
            tensors["thresholds"] = self.thresholds
        return MethodState(
            VERSION,
            {"slices": self.slices.to_json()},
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            {**self.slices.summary, "support slices": len(self.memory.memories)},
        )

    @classmethod
    def decode(cls, ctx: Context, state: MethodState) -> PromptState:
        """Raises TaskError where the state is of another version or lacks a part."""
        device = ctx.needed_backbone.device
        tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        with reading(state, VERSION):
            with ctx.seeded():
                attention = ctx.needed_backbone.new_attention()
            if attention is not None:
                attention.load_state_dict(part_of(tensors, "attention"))
                attention = attention.eval().requires_grad_(False).to(device)
            memory = SupportMemory.from_tensors(part_of(tensors, "memory"))
            thresholds = None if attention is None else tensors["thresholds"]
            prepared = SlicePreparation.from_json(state.metadata["slices"])
            return cls(prepared, memory, attention, thresholds)


@dataclass(frozen=True)
class Visit:
    """One slice's turn. direction: as `PromptedFrames.predict` takes it. prompts: frame number and
    number of the support slice; the volume's own slices are the frames from 0 on. remember: whether
    slices that follow see this one."""

    index: int
    direction: int
    prompts: Sequence[tuple[int, int]]
    remember: bool = True


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

    def __init__(
        self,
        ctx: Context,
        volume: Volume,
        task: LearnedTask,
        plan: Plan,
        describe: Describe = describe_features,
    ) -> None:
        self.ctx, self.plan, self.describe = ctx, plan, describe
        self.structures: Sequence[Structure] = task.structures
        self._method = task.method
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
            statistics_slices(count),
            self.learned.memory,
            lambda index: self.describe(
                self.volume.image(index).to(ctx.needed_backbone.device), features(index)
            ),
        )
        learned = self.learned
        frames = PromptedFrames(ctx.needed_backbone, learned.attention, learned.thresholds)
        start: int | None = None
        for done, visit in enumerate(self.plan(query)):
            start = visit.index if start is None else start
            ctx.report(Progress("segment", done, count))
            prompts = [(number, memories[which]) for number, which in visit.prompts]
            own = features(visit.index)
            with ctx.timings.stage("decode"):
                probabilities = frames.predict(
                    visit.index, own, prompts, visit.direction, visit.remember
                )
            with ctx.timings.stage("write"):
                result, _ = self.volume.result(visit.index, probabilities, self.structures)
            yield result
            encoded.drop(visit.index)
            frames.forget_beyond(start, visit.index)
        ctx.report(Progress("segment", count, count))

    def correct(self, corrections: Corrections) -> Iterator[SliceResult]:
        refuse_corrections(self._method)

    def state(self) -> MethodState:
        return self.learned.encode()


@torch.no_grad()
def _thresholds(
    ctx: Context,
    memory: SupportMemory,
    sources: Sequence[int],
    attention: LearnedAttention,
    known: Sequence[tuple[int, ImageFeatures, Tensor]],
    together: int,
) -> Tensor:
    """The thresholds at which support slices agree best with their own masks, when they are read
    from the most similar slices of the other cases; with a single case, from its other slices.

    sources: index in its case of the slice that each memory is of, or a copy of. known: number of a
    memory, its slice's features and masks (N, S, S).
    """
    read, truth = [], []
    for number, features, masks in known:
        others = memory.cases != memory.cases[number]
        if not others.any():
            others = torch.tensor([source != sources[number] for source in sources])
        places = torch.nonzero(others.cpu()).flatten().to(memory.descriptors.device)
        if not len(places):
            continue
        likeness = memory.descriptors[places].float() @ memory.descriptors[number].float()
        best = places[torch.topk(likeness, min(together, len(places))).indices].tolist()
        memories = [memory.memories[which] for which in best]
        read.append(read_masks(ctx.needed_backbone, features, memories, attention))
        truth.append(masks)
    if not read:
        return torch.full((len(memory.memories[0].features),), 0.5)
    return best_thresholds(read, truth)


def _statistics(ctx: Context, volume: SlicedVolume, features: SliceFeatures) -> FeatureStatistics:
    """Mean and deviation of a volume's features, from slices spread over it."""
    indices = statistics_slices(volume.count)
    for done, index in enumerate(indices):
        ctx.report(Progress("encode", done, len(indices), "looking through the volume"))
        with ctx.timings.stage("encode"):
            features(index)
    return FeatureStatistics.of_volume(
        volume.count, features, volume.prepared.valid_region, ctx.needed_backbone.image_size
    )
