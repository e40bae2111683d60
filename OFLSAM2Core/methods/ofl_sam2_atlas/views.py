"""The views of a volume that the method predicts from, and what it says of a slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.backbones.base import Backbone
from OFLSAM2Core.data.slice_geometry import SliceGeometry, support_geometries
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.methods.ofl_sam2_atlas.options import LearnOptions
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume, Preprocessing
from OFLSAM2Core.preprocessing.roi_crop import bbox_center
from OFLSAM2Core.preprocessing.support_stack import SupportStack


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """A segmented canonical slice: labels and confidence uint8 (H, W), S_cf by structure name."""

    index: int
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8]
    scores: dict[str, float]
    revision: int = 0


@dataclass(frozen=True, eq=False)
class ExtraViews:
    """Views of a volume besides whole slices, where a task has them.

    closer: from the middle of the structures, row and column in slice pixels, to the square around
        it. across: cut along other axes.
    """

    closer: Callable[[tuple[float, float]], PreprocessedVolume] | None = None
    across: tuple[tuple[PreprocessedVolume, SliceGeometry], ...] = ()


def support_views(
    support: Sequence[SupportCase], backbone: Backbone, options: LearnOptions
) -> tuple[Preprocessing, list[SupportStack]]:
    """The support cases in all views that are learned from, and how a volume is shown likewise."""
    slicings = support_geometries(support, options.slicing_axis)
    preprocessing = Preprocessing.fit(
        support,
        slicings,
        size=backbone.image_size,
        window=options.window(),
        roi=options.roi_refinement,
        orthogonal=options.multi_planar,
    )
    stacks = []
    for case, slicing in zip(support, slicings, strict=True):
        labels = slicing.to_slices(case.labels)
        square = None
        if preprocessing.roi_pixel_spacing is not None:
            square = preprocessing.transform_roi(case.volume, slicing, bbox_center(labels))
        across = tuple(
            SupportStack(case.name, shown, cut, cut.to_slices(case.labels))
            for shown, cut in preprocessing.transform_orthogonal(case.volume, slicing)
        )
        prepared = preprocessing.transform(case.volume, slicing)
        stacks.append(SupportStack(case.name, prepared, slicing, labels, square, across))
    return preprocessing, stacks
