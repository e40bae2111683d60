"""Where in a volume the structures are, so that a square around them can be shown.

One mapping network from whole slices' features to "any structure", fitted in closed form, asked in
a dozen slices. On 34 hearts the middle it finds is off by 0.05 of the square's side, 0.16 at most
(docs/experiments/other-sets.md); the square has room for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.backbones.base import Backbone, ImageFeatures
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.field_of_view import extent_of
from OFLSAM2Core.methods.base import SupportSlices
from OFLSAM2Core.methods.ofl_sam2.balance import Balance, near_structures
from OFLSAM2Core.methods.ofl_sam2.mapping_network import EquationsSum, FeatureHead
from OFLSAM2Core.methods.ofl_sam2.statistics import FeatureStatistics, previewed_slices
from OFLSAM2Core.preparation import PreparedVolume
from OFLSAM2Core.results import Progress, ProgressCallback
from OFLSAM2Core.slicing import Slicing


@dataclass(frozen=True)
class Locator:
    """head, tau (1, D, 1): from standardised features to how much of a position structures cover.
    extent: of all structures together, along rows' and columns' direction in mm, mean of the
    support.
    """

    head: FeatureHead
    tau: Tensor
    extent: tuple[float, float]

    @classmethod
    def learn(
        cls, backbone: Backbone, support: Sequence[SupportSlices], on_progress: ProgressCallback
    ) -> Locator:
        """From support cases that have whole slices too."""
        features: list[Tensor] = []
        masks: list[Tensor] = []
        for case in support:
            assert case.whole is not None
            looked = _look_through(backbone, case.whole, case.slicing, on_progress)
            for index, each in looked.items():
                covered = (case.labels[index] > 0)[np.newaxis]
                masks.append(torch.from_numpy(case.whole.framing.to_network(covered)))
                features.append(each.comparable)
        head = FeatureHead.fit(features)
        near = [near_structures(mask, backbone.feature_size) for mask in masks]
        balance = Balance.of_support(near).to(backbone.device)
        total = EquationsSum()
        for comparable, mask, close in zip(features, masks, near, strict=True):
            rows = head.rows(comparable)
            wanted = F.adaptive_avg_pool2d(mask[None], backbone.feature_size).flatten(2)
            total.add(rows, wanted.to(rows), close.to(rows.device), balance)
        extents = np.array([extent_of(case.labels, case.slicing) for case in support])
        rows_extent, columns_extent = extents.mean(axis=0)
        return cls(head, total.mean().closed_form(), (float(rows_extent), float(columns_extent)))

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, for a learned task."""
        return {
            "locator.basis": self.head.basis.cpu(),
            "locator.tau": self.tau.cpu(),
            "locator.extent": torch.tensor(self.extent),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Locator:
        """Raises TaskError when something is missing."""
        try:
            rows, columns = tensors["locator.extent"].tolist()
            head = FeatureHead(tensors["locator.basis"].to(device))
            return cls(head, tensors["locator.tau"].to(device), (rows, columns))
        except KeyError as error:
            raise TaskError(
                "The learned task lacks what finds its structures in a volume.",
                "Learn it again from the support cases.",
            ) from error

    def find(
        self,
        backbone: Backbone,
        whole: PreparedVolume,
        slicing: Slicing,
        on_progress: ProgressCallback,
    ) -> tuple[float, float]:
        """The middle of all structures together: row and column in slice pixels."""
        looked = _look_through(backbone, whole, slicing, on_progress)
        covered = torch.stack(
            [
                self.head.mapped(self.head(each.comparable), self.tau, 0.0)[0, 0].clamp(0, 1)
                for each in looked.values()
            ]
        ).sum(dim=0)
        top, bottom, left, right = whole.content_box
        rows, columns = slicing.slice_shape
        # Slice pixels that a position of the features' grid covers.
        stride = backbone.image_size / backbone.feature_size
        covers = stride * rows / (bottom - top), stride * columns / (right - left)
        window = [
            _odd(extent / (pixels * spacing))
            for extent, pixels, spacing in zip(
                self.extent, covers, slicing.spacing_in_plane, strict=True
            )
        ]
        row, column = _densest(covered, window)
        return (row - top / stride) * covers[0], (column - left / stride) * covers[1]


def _look_through(
    backbone: Backbone, whole: PreparedVolume, slicing: Slicing, on_progress: ProgressCallback
) -> dict[int, ImageFeatures]:
    """Standardised features of slices spread over a volume, by index."""
    indices = previewed_slices(slicing.count)
    found = {}
    for done, index in enumerate(indices):
        on_progress(Progress("encode", done, len(indices), "looking for the structures"))
        image = torch.from_numpy(whole.image(index))[None]
        found[index] = backbone.encode(image.to(backbone.device))
    statistics = FeatureStatistics.of_volume(
        slicing.count, found.__getitem__, whole.content_box, backbone.image_size
    )
    return {index: statistics.standardise(each) for index, each in found.items()}


def _odd(size: float) -> int:
    """The odd number next to a size, at least 1."""
    return max(2 * round((size - 1) / 2) + 1, 1)


def _densest(covered: Tensor, window: Sequence[int]) -> tuple[float, float]:
    """Where a map (h, w) holds most within a window: the middle of its mass there, in positions
    (0 is the upper edge of the first)."""
    padding = [each // 2 for each in window]
    sums = F.avg_pool2d(covered[None, None], tuple(window), stride=1, padding=tuple(padding))[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    edges = [(max(at - p, 0), at + p + 1) for at, p in zip((row, column), padding, strict=True)]
    (top, bottom), (left, right) = edges
    inside = covered[top:bottom, left:right].double()
    if float(inside.sum()) <= 0:  # Nothing anywhere: the middle is as good as any place.
        return covered.shape[0] / 2, covered.shape[1] / 2
    share = inside / inside.sum()
    rows = torch.arange(len(share), device=share.device) + top + 0.5
    columns = torch.arange(share.shape[1], device=share.device) + left + 0.5
    return float((share.sum(dim=1) * rows).sum()), float((share.sum(dim=0) * columns).sum())
