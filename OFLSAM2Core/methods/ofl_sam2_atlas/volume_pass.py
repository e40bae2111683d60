"""All slices again, once all are known: what each shows as a part of the volume.

Levels are found again from what was drawn, support cases are laid over the volume, and slices are
read by both; a square around the structures or slices along other axes are looked at where that is
worth it, voxels are judged by how bright structures are in the volume, what a slice cannot know is
made consistent in 3D, and each structure is drawn from that probability on at which the Dice to be
expected is best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.atlas.atlas_set import averaged, shares
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.ofl_sam2_atlas.options import SegmentOptions
from OFLSAM2Core.methods.ofl_sam2_atlas.refinement import RefinementPass
from OFLSAM2Core.methods.ofl_sam2_atlas.roi_fusion import by_both
from OFLSAM2Core.methods.ofl_sam2_atlas.state import AtlasMethodState, Metadata
from OFLSAM2Core.methods.ofl_sam2_atlas.view_model import weighed
from OFLSAM2Core.methods.ofl_sam2_atlas.views import ExtraViews
from OFLSAM2Core.postprocessing.confidence import (
    TEMPERATURE,
    WITH_REGISTRATION,
    atlas_agreement,
    extent_confidence,
)
from OFLSAM2Core.postprocessing.intensity_likelihood import BESIDE
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume
from OFLSAM2Core.preprocessing.letterbox import Box
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.runtime.timings import Timings
from OFLSAM2Core.slice_position.regression import PositionScale

FAINT = 0.25
"""Share of registration from which on a structure is drawn from one half on. What it says of unsure
ones is surer than what best Dice was made for: necks and hippocampi lose by lower thresholds, and
right ventricles, which it is hardly asked about, gain."""


@dataclass(frozen=True)
class SlicePosterior:
    """probabilities: of structures on the slice's own grid, (N, H, W). temperature: of what is
    shown as confidence. Once all slices are known: thresholds, from which probabilities on
    structures are drawn (without them one half), likewise; sure, what S_cf is multiplied by, (N,).
    """

    index: int
    probabilities: Tensor
    temperature: float = TEMPERATURE
    thresholds: Tensor | None = None
    sure: Tensor | None = None


@dataclass(frozen=True)
class VolumePosterior:
    """volume: the structures' probabilities. found: what the mapping network finds by itself,
    None where that is not known. Both on the network's grid or, with a region, on that part of
    the slices' own. registered: how much of each structure's probability registration has said,
    (N,), and votes: the highest probability in each slice that it says, (N, slices); None where it
    has not been heard."""

    volume: ProbabilityVolume
    found: ProbabilityVolume | None
    region: Box | None = None
    registered: npt.NDArray[np.float64] | None = None
    votes: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class VolumePass:
    """For one volume whose slices have all been read."""

    backbone: Backbone
    prepared: PreprocessedVolume
    other_looks: ExtraViews
    slicing: SliceGeometry
    structures: Sequence[Structure]
    metadata: Metadata
    parts: AtlasMethodState
    second_reading: RefinementPass
    options: SegmentOptions
    timings: Timings

    def run(
        self, read: ProbabilityVolume, scale: PositionScale, on_progress: ProgressCallback
    ) -> Iterator[SlicePosterior]:
        """Every slice.

        read: as slices were read first, by `scale`; it is changed.
        """
        device, count = self.backbone.device, self.slicing.count
        read_again, scale, votes = self._read_again(read, scale, on_progress)
        last = self._looked_again(read_again, scale, votes, on_progress)
        last = self._with_registered(last, votes)
        if self.options.intensity_refinement:
            with self.timings.stage("finish"):
                last = self._by_appearance(last)
        whole, drawn, region = read_again.volume, last.volume, last.region
        with self.timings.stage("finish"):
            if self.options.dice_optimal_threshold:
                unheard = last.registered is None or last.registered < FAINT
                drawn = self._without_strays(
                    drawn.with_dice_optimal_thresholds(unheard), last.found
                )
            if region is None:
                whole = drawn
            levels = np.array([scale.level(i * self.slicing.slice_spacing) for i in range(count)])
            areas = drawn.areas()
            sure = extent_confidence(areas, levels, self.parts.extents)
            if last.votes is not None:
                sure = sure * atlas_agreement(areas, last.votes)
            factors = torch.from_numpy(sure).float().to(device)
        temperature = TEMPERATURE if last.registered is None else WITH_REGISTRATION
        rows, columns = self.slicing.slice_shape
        top, bottom, left, right = region or (0, rows, 0, columns)
        thresholds = torch.full((len(self.structures), rows, columns), 0.5, device=device)
        thresholds[:, top:bottom, left:right] = drawn.thresholds.to(device)[:, None, None]
        for index in range(count):
            on_progress(Progress("finish", index, count))
            with self.timings.stage("finish"):
                own = self.prepared.to_grid(whole.slice(index, device))
                if region is not None:
                    own[:, top:bottom, left:right] = drawn.slice(index, device)
            yield SlicePosterior(index, own, temperature, thresholds, factors[:, index])
        on_progress(Progress("finish", count, count))

    def _read_again(
        self, read: ProbabilityVolume, scale: PositionScale, on_progress: ProgressCallback
    ) -> tuple[VolumePosterior, PositionScale, AtlasPrior | None]:
        """Levels from the areas that were drawn, and what support cases say that are laid over the
        volume; and slices by these, where there is anything new."""
        spacing = self.slicing.slice_spacing
        with self.timings.stage("finish"):
            first = self._smoothed(read, self._found_by_mapping(scale))
        votes = self._votes(first, on_progress)
        told = votes if self.parts.readout.uses_atlas_prior else None
        better = self.parts.extents.scale(first.volume.areas(), spacing, scale)
        if better == scale and told is None:
            return first, scale, votes
        # As it was learned from the support: what it has learned since was drawn at worse levels.
        mapping = self.parts.mapping if self.options.mapping_branch else None
        for index in range(self.slicing.count):
            on_progress(Progress("finish", index, self.slicing.count, "reading once more"))
            with self.timings.stage("finish"):
                voted: Tensor | None = None
                if told is not None:
                    voted = told.for_head(index, self.prepared.framing, read.side)
                    voted = voted.to(self.backbone.device)
                level = better.level(index * spacing)
                read.put(index, self.second_reading.read(index, level, mapping, voted))
        with self.timings.stage("finish"):
            again = self._smoothed(read, self._found_by_mapping(better))
        scale = self.parts.extents.scale(again.volume.areas(), spacing, better)
        return again, scale, votes

    def _found_by_mapping(self, scale: PositionScale) -> ProbabilityVolume | None:
        """On the network's grid; of the mapping network as it was learned from the support. None
        where it does not say that, or nobody asks: pieces go of structures in one piece only."""
        if not (
            self.options.mapping_branch
            and self.backbone.memory_is_mask
            and any(self.metadata.single)
        ):
            return None
        spacing = self.slicing.slice_spacing
        return ProbabilityVolume.of_slices(
            self.second_reading.found(index, scale.level(index * spacing), self.parts.mapping)
            for index in range(self.slicing.count)
        )

    def _looked_again(
        self,
        drawn: VolumePosterior,
        scale: PositionScale,
        votes: AtlasPrior | None,
        on_progress: ProgressCallback,
    ) -> VolumePosterior:
        """With another look, where the task has one, on the slices' own grid."""
        device, whole = self.backbone.device, drawn.volume
        square = self._square_around(whole)
        if square is not None:
            with self.timings.stage("look closer"):
                near = self._read_closer(square, scale, votes, on_progress)
            with self.timings.stage("finish"):
                fused = by_both(whole, self.prepared, near, square, device)
                return self._cleaned(fused, drawn, square.framing.region)
        if not self.other_looks.across or not whole.areas().any():
            return drawn
        with self.timings.stage("look across"):
            fused = self._read_across(whole, on_progress)
        with self.timings.stage("finish"):
            return self._cleaned(fused, drawn, self._whole_slice)

    @property
    def _whole_slice(self) -> Box:
        rows, columns = self.slicing.slice_shape
        return 0, rows, 0, columns

    def _votes(self, drawn: VolumePosterior, on_progress: ProgressCallback) -> AtlasPrior | None:
        """What the support cases say, laid over the volume; None where nothing was drawn to begin
        with, or they are not to be asked."""
        look = self.parts.registered
        if look is None or not self.options.atlas_prior:
            return None
        with self.timings.stage("look by registration"):
            drawn = self._on_own_grid(drawn)
            if drawn.region is None:
                return None
            centres = drawn.volume.centres(drawn.region, self.slicing.steps)
            began = look.begin(centres)
            if began is None:
                return None
            return look.read(self.prepared, self.slicing, began, on_progress)

    def _with_registered(self, drawn: VolumePosterior, votes: AtlasPrior | None) -> VolumePosterior:
        """The mean with what the support cases say."""
        look = self.parts.registered
        if look is None or votes is None:
            return drawn
        drawn = self._on_own_grid(drawn)
        region = drawn.region
        with self.timings.stage("finish"):
            if region is None:
                drawn, region = self._in_whole_slices(drawn)
            seen = votes.on_slice_grid(region)
            share = shares(drawn.volume, seen, look.reliable.double().cpu().numpy())
            fused = averaged(drawn.volume, seen, share, self.backbone.device)
            fused = self._without_strays(fused, drawn.found)
            return replace(drawn, volume=fused, registered=share, votes=seen.highest())

    def _on_own_grid(self, drawn: VolumePosterior) -> VolumePosterior:
        """The same on the region of the slices' own grid in which something may be; as it is where
        it is on their grid already, or nothing may be anywhere."""
        if drawn.region is not None or (region := self._region_of(drawn.volume)) is None:
            return drawn
        return VolumePosterior(
            self._on_grid(drawn.volume, region), self._found_on_grid(drawn, region), region
        )

    def _in_whole_slices(self, drawn: VolumePosterior) -> tuple[VolumePosterior, Box]:
        """For something to be drawn where nothing was, and where that is."""
        whole = self._whole_slice
        return VolumePosterior(self._on_grid(drawn.volume, whole), None, whole), whole

    def _by_appearance(self, drawn: VolumePosterior) -> VolumePosterior:
        """What `_looked_again` gives, judged by the intensities of the slices' own pixels."""
        drawn = self._on_own_grid(drawn)
        if drawn.region is None:
            return drawn
        top, bottom, left, right = drawn.region
        shown = self.prepared.stack[:, top:bottom, left:right]
        judged = drawn.volume.by_appearance(shown, self.metadata.adjacent)
        return replace(drawn, volume=self._without_strays(judged, drawn.found))

    def _region_of(self, drawn: ProbabilityVolume) -> Box | None:
        """Of the slices' own grid: where something may be, and what is looked at beside it. None
        where nothing may."""
        edges = drawn.edges()
        if edges is None:
            return None
        top, bottom, left, right = edges
        ends = [
            self._point_on_slice(drawn, row, column)
            for row, column in ((top - 1, left - 1), (bottom + 1, right + 1))
        ]
        (first, last), (first_column, last_column) = (
            (max(int(low) - BESIDE, 0), min(math.ceil(high) + BESIDE, length))
            for low, high, length in zip(*ends, self.slicing.slice_shape, strict=True)
        )
        return first, last, first_column, last_column

    def _on_grid(self, whole: ProbabilityVolume, region: Box) -> ProbabilityVolume:
        """Of whole slices, a region of the slices' own grid."""
        top, bottom, left, right = region
        return ProbabilityVolume.of_slices(
            self.prepared.to_grid(whole.slice(index, self.backbone.device))[
                :, top:bottom, left:right
            ]
            for index in range(whole.count)
        )

    def _read_across(
        self, whole: ProbabilityVolume, on_progress: ProgressCallback
    ) -> ProbabilityVolume:
        """With slices along other axes, on the slices' own grid."""
        device = self.backbone.device
        looks = [self._on_grid(whole, self._whole_slice)]
        for across, (prepared, other) in zip(
            self.parts.across, self.other_looks.across, strict=True
        ):
            found = across.read(
                looks[0].cut_anew(self.slicing, other),
                prepared,
                other,
                self.metadata.widths,
                self.backbone,
                self.options.mapping_branch,
                on_progress,
            )
            looks.append(found.cut_anew(other, self.slicing))
        return ProbabilityVolume.of_slices(
            weighed(*(look.slice(index, device) for look in looks)) for index in range(whole.count)
        )

    def _square_around(self, drawn: ProbabilityVolume) -> PreprocessedVolume | None:
        """None where the task has no square, or nothing was drawn."""
        middle = drawn.middle()
        if self.other_looks.closer is None or self.parts.close_up is None or middle is None:
            return None
        return self.other_looks.closer(self._point_on_slice(drawn, *middle))

    def _point_on_slice(
        self, whole: ProbabilityVolume, row: float, column: float
    ) -> tuple[float, float]:
        """Row and column in the slice's pixels, from those of whole slices' probabilities."""
        step = self.backbone.image_size / whole.side
        return self.prepared.framing.point_on_slice(row * step, column * step)

    def _read_closer(
        self,
        square: PreprocessedVolume,
        scale: PositionScale,
        votes: AtlasPrior | None,
        on_progress: ProgressCallback,
    ) -> ProbabilityVolume:
        assert self.parts.close_up is not None
        read, found = self.parts.close_up.read(
            self.backbone,
            square,
            self.slicing,
            scale,
            range(self.slicing.count),
            self.options.mapping_branch,
            "looking closer",
            on_progress,
            votes,
        )
        return self._smoothed(read, found).volume

    def _smoothed(
        self, read: ProbabilityVolume, found: ProbabilityVolume | None
    ) -> VolumePosterior:
        smoothed = read.smoothed(self.metadata.widths, self.slicing.slice_spacing)
        return VolumePosterior(self._without_strays(smoothed, found), found)

    def _cleaned(
        self, fused: ProbabilityVolume, whole: VolumePosterior, region: Box
    ) -> VolumePosterior:
        """What was read in a region, with what the mapping network finds in whole slices."""
        found = self._found_on_grid(whole, region)
        return VolumePosterior(self._without_strays(fused, found), found, region)

    def _found_on_grid(self, whole: VolumePosterior, region: Box) -> ProbabilityVolume | None:
        return None if whole.found is None else self._on_grid(whole.found, region)

    def _without_strays(
        self, drawn: ProbabilityVolume, found: ProbabilityVolume | None
    ) -> ProbabilityVolume:
        return drawn.without_spurious_components(
            self.metadata.single, self.metadata.adjacent, found
        )
