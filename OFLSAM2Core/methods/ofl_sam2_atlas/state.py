"""The learned parts of OFL-SAM2, to tensors and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from OFLSAM2Core.atlas.atlas_set import AtlasSet
from OFLSAM2Core.backbones.base import Backbone, LearnedAttention, Memory
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.methods.base import MethodState
from OFLSAM2Core.methods.common.class_balance import PositionWeights
from OFLSAM2Core.methods.common.mapping_network import (
    MappingNetwork,
    NormalEquations,
    PcaFeatureMap,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.adaptive_fusion import AdaptiveFusion
from OFLSAM2Core.methods.ofl_sam2_atlas.memory_bank import SupportMemory
from OFLSAM2Core.methods.ofl_sam2_atlas.multiplanar import OrthogonalViewModel
from OFLSAM2Core.methods.ofl_sam2_atlas.segmentation_head import SegmentationHead
from OFLSAM2Core.methods.ofl_sam2_atlas.view_model import ViewModel
from OFLSAM2Core.preprocessing.preprocessing import Preprocessing
from OFLSAM2Core.runtime.named_tensors import named, part_of
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionRegressor

VERSION = 1
"""Of the format in which this method's state is kept."""


@dataclass(frozen=True)
class Metadata:
    """What is kept besides tensors.

    orientation: along what targets are cut ("axial", "coronal", "sagittal" or "frame").
    single, by structure: whether it is one connected component in every support case. adjacent:
    the structures that touch each. widths: of each, in millimetres.
    """

    preprocessing: Preprocessing
    orientation: str
    single: list[bool]
    adjacent: list[list[int]]
    widths: list[float]

    def encode(self) -> dict[str, Any]:
        return {**vars(self), "preprocessing": self.preprocessing.to_json()}

    @classmethod
    def decode(cls, state: MethodState) -> Metadata:
        """Raises TaskError for a state of another version, or one that is damaged."""
        if state.version != VERSION:
            raise TaskError(
                f"The learned task holds version {state.version} of the state of 'ofl-sam2-atlas'; "
                f"this version of oflsam2 reads {VERSION}.",
                "Learn it again from the support cases.",
            )
        try:
            data = state.metadata
            return cls(
                Preprocessing.from_json(data["preprocessing"]),
                str(data["orientation"]),
                [bool(each) for each in data["single"]],
                [[int(one) for one in each] for each in data["adjacent"]],
                [float(each) for each in data["widths"]],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TaskError(
                "The learned task is damaged: what it says of its preprocessing cannot be read.",
                "Learn it again from the support cases.",
            ) from error


@dataclass(frozen=True)
class AtlasMethodState:
    """Everything that a learned task of this method holds."""

    fusion: AdaptiveFusion
    readout: SegmentationHead
    attention: LearnedAttention | None
    mapping: MappingNetwork
    memory: SupportMemory
    levels: PositionRegressor
    extents: StructureExtents
    close_up: ViewModel | None = None
    across: tuple[OrthogonalViewModel, ...] = ()
    registered: AtlasSet | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """By name; memory in half precision, which is what makes up the size."""
        tensors = named("fusion", self.fusion.state_dict())
        tensors |= named("readout", self.readout.state_dict())
        if self.attention is not None:
            tensors |= named("attention", self.attention.state_dict())
        tensors |= {
            "mapping.basis": self.mapping.head.basis,
            "mapping.tau": self.mapping.tau,
            "mapping.gram": self.mapping.support.gram,
            "mapping.moment": self.mapping.support.moment,
            "mapping.near": self.mapping.balance.near,
            "mapping.far": self.mapping.balance.far,
            "mapping.kernel": torch.tensor(self.mapping.head.kernel),
            "mapping.with_places": torch.tensor(self.mapping.head.with_places),
            "mapping.regulariser": torch.tensor(self.mapping.regulariser),
            "memory.descriptors": self.memory.descriptors,
            "memory.levels": torch.tensor([m.level for m in self.memory.memories]),
            "levels.descriptors": self.levels.descriptors.half(),
            "levels.levels": self.levels.levels,
            "levels.cases": self.levels.cases,
            "levels.half": torch.tensor(self.levels.half),
            "levels.extents": torch.from_numpy(self.extents.stored),
            "memory.features": torch.stack([m.features.half() for m in self.memory.memories]),
        }
        positions = [m.position for m in self.memory.memories if m.position is not None]
        if self.attention is not None and positions:
            tensors["memory.positions"] = torch.stack(positions).half()
        pointers = [m.pointer for m in self.memory.memories if m.pointer is not None]
        if pointers:
            tensors["memory.pointers"] = torch.stack(pointers)
        if self.close_up is not None:
            tensors |= named("close_up", self.close_up.to_tensors())
        for number, across in enumerate(self.across):
            tensors |= named(f"across{number}", across.to_tensors())
        if self.registered is not None:
            tensors |= named("registered", self.registered.to_tensors())
        return {name: t.detach().cpu().clone() for name, t in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], backbone: Backbone) -> AtlasMethodState:
        """Raises TaskError when something is missing or of another shape."""
        device = backbone.device
        try:
            fusion = AdaptiveFusion.for_backbone(backbone)
            fusion.load_state_dict(part_of(tensors, "fusion"))
            attention = backbone.new_attention()
            if attention is not None:
                attention.load_state_dict(part_of(tensors, "attention"))
                attention.eval().requires_grad_(False).to(device)
            head = PcaFeatureMap(
                tensors["mapping.basis"].to(device),
                int(tensors["mapping.kernel"]),
                bool(tensors["mapping.with_places"]),
            )
            count = len(tensors["mapping.tau"])
            readout = SegmentationHead.from_tensors(
                part_of(tensors, "readout"), backbone, head, count
            )
            support = NormalEquations(
                tensors["mapping.gram"].to(device), tensors["mapping.moment"].to(device)
            )
            mapping = MappingNetwork.start(
                head,
                tensors["mapping.tau"].to(device),
                support,
                PositionWeights(tensors["mapping.near"], tensors["mapping.far"]).to(device),
                float(tensors["mapping.regulariser"]),
            )
            features = tensors["memory.features"].to(device).float()
            positions = tensors.get("memory.positions")
            pointers = tensors.get("memory.pointers")
            memories = [
                Memory(
                    features[i],
                    None if positions is None else positions[i].to(device).float(),
                    None if pointers is None else pointers[i].to(device).float(),
                    float(tensors["memory.levels"][i]),
                )
                for i in range(len(features))
            ]
            memory = SupportMemory(memories, tensors["memory.descriptors"].to(device))
            levels = PositionRegressor(
                tensors["levels.descriptors"].to(device),
                tensors["levels.levels"].to(device),
                tensors["levels.cases"].to(device),
                float(tensors["levels.half"]),
            )
            extents = StructureExtents.from_stored(tensors["levels.extents"].numpy())
        except (KeyError, RuntimeError) as error:
            raise TaskError(
                "The learned task lacks a part, or a part has another shape.",
                "Learn it again from the support cases.",
            ) from error
        fusion.eval().requires_grad_(False).to(device)
        close_up: ViewModel | None = None
        across: list[OrthogonalViewModel] = []
        if own := part_of(tensors, "close_up"):
            close_up = ViewModel.from_tensors(own, backbone, "squares around its structures")
        while own := part_of(tensors, f"across{len(across)}"):
            across.append(OrthogonalViewModel.from_tensors(own, backbone))
        registered: AtlasSet | None = None
        if own := part_of(tensors, "registered"):
            registered = AtlasSet.from_tensors(own, device)
        looks = close_up, tuple(across), registered
        return cls(fusion, readout, attention, mapping, memory, levels, extents, *looks)
