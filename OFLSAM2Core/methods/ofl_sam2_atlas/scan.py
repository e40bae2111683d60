"""A volume as canonical slices, its grey values, and windows of it as the encoder sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.methods.common.high_pass import BLOCK
from OFLSAM2Core.methods.ofl_sam2_atlas.config import LARGEST, ROI_ROOM, SIZES, WHOLE
from OFLSAM2Core.preprocessing.further_volumes import (
    FurtherCurves,
    fit_further_curves,
    further_curves_from,
    further_stacks,
    with_curves,
)
from OFLSAM2Core.preprocessing.intensity_mapping import (
    IntensityMapping,
    detect_modality,
    fit_intensity_mapping,
    percentile_window,
)
from OFLSAM2Core.preprocessing.letterbox import Letterbox
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.preprocessing.roi_crop import crop_around, longest_side


@dataclass(frozen=True, eq=False)
class Scan:
    """stack: canonical slices (S, H, W) of stored intensities, a view of the volume. further: of
    each further volume of the case, which the encoder alone sees."""

    name: str
    stack: npt.NDArray
    slicing: SliceGeometry
    further: tuple[npt.NDArray, ...] = ()

    @classmethod
    def of(cls, volume: Volume, slicing: SliceGeometry) -> Scan:
        stack = slicing.to_slices(volume.array)
        return cls(volume.name, stack, slicing, further_stacks(volume, slicing))


@dataclass(frozen=True)
class Intensity:
    """How intensities become grey values. modality: "CT" (one curve for all), "MR" (every region by
    its own percentiles). curve: for CT and wherever a window was given. further: of each further
    volume."""

    modality: str
    curve: IntensityMapping | None = None
    further: FurtherCurves = ()

    @classmethod
    def fit(
        cls,
        scans: Sequence[Scan],
        labels: Sequence[npt.NDArray],
        window: tuple[float, float] | None = None,
    ) -> Intensity:
        """labels: canonical slices (S, H, W) of each scan. window: intensities shown as black and
        white."""
        modality = detect_modality([scan.stack for scan in scans])
        steps = [scan.slicing.steps for scan in scans]
        further = fit_further_curves([scan.further for scan in scans], labels, steps)
        if window is not None:
            return cls(modality, (window, (0.0, 1.0)), further)
        if modality == "CT":
            curve = fit_intensity_mapping([scan.stack for scan in scans], labels, steps)
            return cls("CT", curve, further)
        return cls(modality, None, further)

    def curve_of(self, values: npt.NDArray) -> IntensityMapping:
        """For a region of a volume, intensities (S, H, W)."""
        return self.curve or percentile_window(values)

    def to_json(self) -> dict[str, Any]:
        return {"modality": self.modality, "curve": self.curve, "further": self.further}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Intensity:
        curve, *further = further_curves_from([data["curve"], *data["further"]])
        return cls(str(data["modality"]), curve, tuple(further))


@dataclass(frozen=True)
class View:
    """Which part of a slice the encoder sees, and how large.

    side: mm. size: pixels of the maps along a side, four for a position of the features. finer:
    pixels of the encoder's image for one of the maps (LiteMedSAM 1, SAM 2 4). takes_any_size:
    whether the encoder does.
    """

    side: float
    size: int
    finer: int = 1
    takes_any_size: bool = True

    @property
    def image_size(self) -> int:
        """Side of the encoder's image, pixels."""
        return self.finer * self.size

    @classmethod
    def fit(
        cls,
        extents: Sequence[float],
        error: float,
        slicings: Sequence[SliceGeometry],
        magnification: float,
        backbone: Backbone,
    ) -> View:
        """extents: largest extent of the structures in a slice of each support case, mm. error: of
        the region's middle, mm."""
        whole = float(max(longest_side(slicing) for slicing in slicings))
        side = float(ROI_ROOM * max(extents) + 2 * error)
        if side > WHOLE * whole:
            side = whole
        if not backbone.takes_any_size:
            size = BLOCK * backbone.feature_size
            return cls(side, size, backbone.image_size // size, takes_any_size=False)
        finest = min(min(slicing.spacing_in_plane) for slicing in slicings)
        wanted = magnification * side / finest
        return cls(side, next((each for each in SIZES if each >= wanted * 0.95), SIZES[-1]))

    def covering(self, slicing: SliceGeometry) -> View:
        """For all of a slice, at the same scale: a larger image where the slice is larger than the
        view, up to LARGEST; what is larger still is shown smaller."""
        longest = longest_side(slicing)
        if longest <= self.side * (1 + 1 / self.size):
            return self
        if not self.takes_any_size:
            return replace(self, side=longest)
        wanted = math.ceil(self.size * longest / self.side / 32) * 32
        if wanted <= LARGEST:
            return replace(self, side=self.side / self.size * wanted, size=wanted)
        return replace(self, side=longest, size=LARGEST)

    def window(
        self,
        scan: Scan,
        centre: tuple[float, float],
        slices: tuple[int, int],
        intensity: Intensity,
    ) -> PreprocessedVolume:
        """The window around `centre`, row and column in slice pixels. slices: first and behind the
        last that matter; grey values are those of these in the window."""
        slicing = scan.slicing
        region = crop_around(centre, self.side, slicing)
        top, bottom, left, right = region
        framing = Letterbox.fit(
            slicing.slice_shape, slicing.spacing_in_plane, self.side / self.size, self.size, region
        )
        shown = np.s_[slices[0] : slices[1], top:bottom, left:right]
        return PreprocessedVolume(
            scan.stack,
            intensity.curve_of(scan.stack[shown]),
            framing,
            name=scan.name,
            finer=self.finer,
            further=with_curves(scan.further, intensity.further, shown),
        )


def extent_in_plane(labels: npt.NDArray, slicing: SliceGeometry) -> float:
    """The larger of the extents along rows and columns, mm, of all structures together."""
    there = np.asarray((labels > 0).any(axis=0))
    rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
    row_step, column_step = slicing.spacing_in_plane
    return max((np.ptp(rows) + 1) * row_step, (np.ptp(columns) + 1) * column_step)
