"""What is learned from the support."""

from __future__ import annotations

from dataclasses import dataclass

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.common.class_balance import PositionWeights
from OFLSAM2Core.methods.common.mapping_network import NormalEquations
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases
from OFLSAM2Core.methods.ofl_sam2_atlas.head import Head, Mapping
from OFLSAM2Core.methods.ofl_sam2_atlas.kept_slices import KeptSlices
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Intensity, View
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionNoise


@dataclass(frozen=True)
class Reliability:
    """How well the atlases locate the structures, by leave-one-out among the support cases.

    dice: of the atlas prior of each structure, NaN where it is not known. located: whether a region
    is located, or all of a volume predicted. beyond: how far structures reach beyond the located
    slices, as share of their height. position_noise: how wrong slice positions are."""

    dice: tuple[float, ...]
    located: bool
    beyond: float
    position_noise: PositionNoise = PositionNoise()


@dataclass(frozen=True)
class Model:
    """A learned task.

    equations: normal equations of the mapping network, to which corrections can be added exactly.
    single: whether a structure is a single connected component. touched: the structures that it
    touches. widths: of structures, mm. mirror: the mirror image of each structure, None where
    copies are not mirrored. kept: a few support slices.
    """

    structures: tuple[Structure, ...]
    orientation: str
    intensity: Intensity
    view: View
    atlases: Atlases
    reliability: Reliability
    extents: StructureExtents
    mapping: Mapping
    head: Head
    equations: NormalEquations
    balance: PositionWeights
    single: tuple[bool, ...]
    touched: tuple[tuple[int, ...], ...]
    widths: tuple[float, ...]
    mirror: tuple[int, ...] | None = None
    kept: KeptSlices = KeptSlices((), {})
