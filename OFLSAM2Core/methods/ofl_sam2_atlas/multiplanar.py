"""A look across: slices along another axis, once those along the first are drawn.

A slice does not show what lies above and below it. Where voxels are about as deep as they are wide,
slices along another axis show just that, with as much detail, and are wrong in other places: the
support is learned from once more, cut along that axis, and a new volume is read once more where
structures were drawn (docs/decisions/0012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.results import ProgressCallback
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.methods.ofl_sam2_atlas.view_model import ViewModel
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.slice_position.extents import StructureExtents
from OFLSAM2Core.slice_position.regression import PositionScale

ROOM = 0.2
"""Levels beyond the ends of what was drawn that are read, too."""

MOST_READ = 64
"""Slices that are read along an axis. Left atria, some 100 slices long, lose nothing where every
second is read (0.905, with all 0.905) and 0.003 where every third is; hippocampi, 50 long, lose
0.003 and 0.010."""


@dataclass(frozen=True)
class OrthogonalViewModel:
    """look: learned from slices along the other axis. extents: where structures begin and end
    along it, of the support."""

    look: ViewModel
    extents: StructureExtents

    def read(
        self,
        drawn: ProbabilityVolume,
        prepared: PreprocessedVolume,
        slicing: SliceGeometry,
        widths: Sequence[float],
        backbone: Backbone,
        use_mapping: bool,
        on_progress: ProgressCallback,
    ) -> ProbabilityVolume:
        """What slices along the other axis show near the structures, and `drawn` elsewhere.

        drawn: cut by `slicing` along the other axis, on the slices' own grid.
        prepared: the volume, cut likewise. widths: see `ProbabilityVolume.smoothed`.
        """
        spacing = slicing.slice_spacing
        areas = drawn.areas()
        if not areas.any():
            return drawn
        scale = self.extents.scale(
            areas, spacing, PositionScale.of_slices(np.asarray(areas.any(axis=0)), spacing)
        )
        levels = np.array([scale.level(i * spacing) for i in range(slicing.count)])
        near = np.flatnonzero(np.abs(levels) <= 1 + ROOM)
        step = max(_position(prepared, backbone, slicing), math.ceil(len(near) / MOST_READ))
        indices = near[::step].tolist()
        if not indices:
            return drawn
        message = f"{slicing.orientation} slices"
        read, _ = self.look.read(
            backbone, prepared, slicing, scale, indices, use_mapping, message, on_progress
        )
        read = read.smoothed(widths, step * spacing)

        def at(index: int) -> Tensor:
            place = (index - indices[0]) / step
            if not 0 <= place <= len(indices) - 1:
                return drawn.slice(index, backbone.device)
            before = int(place)
            after = min(before + 1, len(indices) - 1)
            here = torch.lerp(
                read.slice(before, backbone.device),
                read.slice(after, backbone.device),
                place - before,
            )
            return prepared.to_grid(here).clamp(0, 1)

        return ProbabilityVolume.of_slices(map(at, range(slicing.count)))

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, for a learned task."""
        return {**self.look.to_tensors(), "extents": torch.from_numpy(self.extents.stored)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], backbone: Backbone) -> OrthogonalViewModel:
        """Raises TaskError when something is missing or of another shape."""
        what = "slices along another axis"
        look = ViewModel.from_tensors(tensors, backbone, what)
        if "extents" not in tensors:
            raise TaskError(
                f"The learned task lacks where structures end in {what}.",
                "Learn it again from the support cases.",
            )
        return cls(look, StructureExtents.from_stored(tensors["extents"].numpy()))


def _position(prepared: PreprocessedVolume, backbone: Backbone, slicing: SliceGeometry) -> int:
    """How many slices are as deep as a position of the features' grid is wide, at least one:
    nothing finer is seen within a slice either."""
    first, last, _, _ = prepared.framing.region
    top, bottom, _, _ = prepared.valid_region
    pixel = (last - first) * slicing.spacing_in_plane[0] / (bottom - top)
    position = pixel * backbone.image_size / backbone.feature_size
    return max(1, int(position / slicing.slice_spacing))
