"""Conversion of a learned model to a method's state, and back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.method_state import MethodState
from OFLSAM2Core.methods.common.class_balance import PositionWeights
from OFLSAM2Core.methods.common.mapping_network import NormalEquations, PcaFeatureMap
from OFLSAM2Core.methods.common.reading_state import reading
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Head, Mapping
from OFLSAM2Core.methods.ofl_sam2_atlas.kept_slices import KeptSlices
from OFLSAM2Core.methods.ofl_sam2_atlas.model import Model, Reliability
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Intensity, View
from OFLSAM2Core.runtime.named_tensors import named, part_of
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionNoise

VERSION = 4


def encode_model(model: Model) -> MethodState:
    """The state of a model. Symmetric matrices of the mapping network are stored by one half."""
    size = model.equations.gram.shape[-1]
    upper = torch.triu_indices(size, size)
    tensors = {
        **named("atlases", model.atlases.to_tensors()),
        **named("head", model.head.state_dict()),
        **named("kept", model.kept.to_tensors()),
        "mapping.basis": model.mapping.features.basis,
        "mapping.tau": model.mapping.tau,
        "mapping.gram": model.equations.gram[:, upper[0], upper[1]],
        "mapping.moment": model.equations.moment,
        "mapping.near": model.balance.near,
        "mapping.far": model.balance.far,
        "extents": torch.from_numpy(model.extents.stored),
    }
    metadata = {
        "orientation": model.orientation,
        "intensity": model.intensity.to_json(),
        "side": model.view.side,
        "size": model.view.size,
        "finer": model.view.finer,
        "takes_any_size": model.view.takes_any_size,
        "reliable": [None if math.isnan(each) else each for each in model.reliability.dice],
        "located": model.reliability.located,
        "beyond": model.reliability.beyond,
        "position_noise": [
            model.reliability.position_noise.shift,
            model.reliability.position_noise.scaling,
        ],
        "mirror": None if model.mirror is None else list(model.mirror),
        "kernel": model.mapping.features.kernel,
        "with_places": model.mapping.features.with_places,
        "single": list(model.single),
        "touched": [list(own) for own in model.touched],
        "widths": list(model.widths),
    }
    summary = {"slicing axis": model.orientation, "modality": model.intensity.modality}
    kept = {name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}
    return MethodState(VERSION, metadata, kept, summary)


def decode_model(state: MethodState, structures: tuple[Structure, ...]) -> Model:
    """Raises TaskError where the state is of another version or lacks a part."""
    with reading(state, VERSION):
        return _decoded(state.metadata, state.tensors, structures)


def _decoded(
    data: dict[str, Any], tensors: dict[str, Tensor], structures: tuple[Structure, ...]
) -> Model:
    intensity = Intensity.from_json(data["intensity"])
    basis = tensors["mapping.basis"]
    features = PcaFeatureMap(basis, int(data["kernel"]), bool(data["with_places"]))
    size = features.unknowns
    upper = torch.triu_indices(size, size)
    gram = torch.zeros(len(structures), size, size)
    gram[:, upper[0], upper[1]] = tensors["mapping.gram"]
    gram[:, upper[1], upper[0]] = tensors["mapping.gram"]
    head = Head(basis.shape[0], len(structures))
    head.load_state_dict(part_of(tensors, "head"))
    mirror = data["mirror"]
    dice = tuple(math.nan if each is None else float(each) for each in data["reliable"])
    return Model(
        structures=structures,
        orientation=str(data["orientation"]),
        intensity=intensity,
        view=View(
            float(data["side"]),
            int(data["size"]),
            int(data["finer"]),
            bool(data["takes_any_size"]),
        ),
        atlases=Atlases.from_tensors(part_of(tensors, "atlases"), intensity),
        reliability=Reliability(
            dice,
            bool(data["located"]),
            float(data["beyond"]),
            PositionNoise(*(float(each) for each in data["position_noise"])),
        ),
        extents=StructureExtents.from_stored(tensors["extents"].numpy()),
        mapping=Mapping(features, tensors["mapping.tau"]),
        head=head.eval().requires_grad_(False),
        equations=NormalEquations(gram, tensors["mapping.moment"]),
        balance=PositionWeights(tensors["mapping.near"], tensors["mapping.far"]),
        single=tuple(bool(each) for each in data["single"]),
        touched=tuple(tuple(int(n) for n in own) for own in data["touched"]),
        widths=tuple(float(each) for each in data["widths"]),
        mirror=None if mirror is None else tuple(int(n) for n in mirror),
        kept=KeptSlices.from_tensors(part_of(tensors, "kept")),
    )
