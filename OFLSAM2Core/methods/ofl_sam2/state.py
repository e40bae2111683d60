"""What OFL-SAM2 learned from the support, to and from the tensors of a learned task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from OFLSAM2Core.backbones.base import Backbone, LearnedAttention
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.common.reading_state import reading
from OFLSAM2Core.methods.common.sliced_volume import SlicePreparation
from OFLSAM2Core.methods.common.support_memory import SupportMemory, spread
from OFLSAM2Core.methods.ofl_sam2.adaptive_fusion import AdaptiveFusion
from OFLSAM2Core.methods.ofl_sam2.mapping_network import MappingNetwork, NormalEquations
from OFLSAM2Core.methods.ofl_sam2.support_encoding import EncodedSlice
from OFLSAM2Core.methods.ofl_sam2.training import Trained
from OFLSAM2Core.runtime.named_tensors import named, part_of

VERSION = 2

MOST_MEMORIES = 96
"""Support slices that are kept to retrieve from: they are most of a task file."""


@dataclass(frozen=True)
class OflSam2State:
    """The three learned parts, and how volumes are shown."""

    slices: SlicePreparation
    trained: Trained
    mapping: MappingNetwork
    memory: SupportMemory

    def encode(self) -> MethodState:
        """As plain values and tensors."""
        tensors = {
            **named("fusion", self.trained.fusion.state_dict()),
            "mapping.tau": self.mapping.tau,
            "mapping.gram": self.mapping.support.gram,
            "mapping.moment": self.mapping.support.moment,
            **named("memory", self.memory.to_tensors()),
        }
        if self.trained.attention is not None:
            tensors |= named("attention", self.trained.attention.state_dict())
        return MethodState(
            version=VERSION,
            metadata={"slices": self.slices.to_json(), "kernel": self.mapping.kernel},
            tensors={name: t.detach().cpu().contiguous() for name, t in tensors.items()},
            summary={**self.slices.summary, "support slices in memory": len(self.memory.memories)},
        )

    @classmethod
    def decode(cls, state: MethodState, backbone: Backbone) -> OflSam2State:
        """On the backbone's device. Raises TaskError where the state is of another version, or
        something is missing or of another shape."""
        with reading(state, VERSION):
            return cls._decode(state, backbone)

    @classmethod
    def _decode(cls, state: MethodState, backbone: Backbone) -> OflSam2State:
        device = backbone.device
        tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
        fusion = AdaptiveFusion.for_backbone(backbone)
        fusion.load_state_dict(part_of(tensors, "fusion"))
        with torch.random.fork_rng(devices=[]):
            attention = backbone.new_attention()
        modules: list[torch.nn.Module] = [fusion]
        if attention is not None:
            attention.load_state_dict(part_of(tensors, "attention"))
            modules.append(attention)
        for module in modules:
            module.eval().requires_grad_(False).to(device)
        tau = tensors["mapping.tau"]
        mapping = MappingNetwork(
            int(state.metadata["kernel"]),
            tau,
            NormalEquations(tensors["mapping.gram"], tensors["mapping.moment"]),
            None,
            tau.new_ones(len(tau)),
        )
        return cls(
            SlicePreparation.from_json(state.metadata["slices"]),
            Trained(fusion, attention),
            mapping,
            SupportMemory.from_tensors(part_of(tensors, "memory")),
        )


def support_memory(
    backbone: Backbone, slices: Sequence[EncodedSlice], attention: LearnedAttention | None
) -> SupportMemory:
    """Memory of the support slices, without augmented copies; an even part where there are many."""
    originals = [s for s in slices if s.copy == 0]
    kept = [originals[i] for i in spread(range(len(originals)), MOST_MEMORIES)]
    memories = [each.memory(backbone) for each in kept]
    if attention is not None:
        memories = [attention.project_memory(memory) for memory in memories]
    return SupportMemory(
        memories,
        torch.stack([each.descriptor for each in kept]),
        torch.tensor([bool(each.masks.max() > 127) for each in kept], device=backbone.device),
        torch.tensor([each.case for each in kept], device=backbone.device),
    )
