"""A volume as a method that works slice by slice sees it: images in, results out.

Everything between the user's grid and the network's square image is here, so that a method itself
is written in (structures, rows, columns) maps on the network's grid and in slice numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.slice_geometry import (
    FRAME_AXIS,
    SliceGeometry,
    support_geometries,
    validate_slice_count,
)
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.methods.common.slicing_options import intensity_window
from OFLSAM2Core.postprocessing.confidence import slice_confidence, soft_label_competition
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

    from OFLSAM2Core.backbones.base import Backbone, ImageFeatures


@dataclass(frozen=True, eq=False)
class SlicedVolume:
    """The slices of one volume or the frames of one sequence, by canonical index."""

    slicing: SliceGeometry
    prepared: PreprocessedVolume

    @property
    def count(self) -> int:
        """How many slices there are."""
        return self.slicing.count

    @property
    def is_sequence(self) -> bool:
        return self.slicing.orientation == FRAME_AXIS

    def image(self, index: int) -> Tensor:
        """The network's image of slice `index`: (1, 3, S, S) in [0, 1]."""
        import torch

        return torch.from_numpy(self.prepared.image(index))[None]

    def result(
        self, index: int, probabilities: Tensor, structures: Sequence[Structure], revision: int = 0
    ) -> tuple[SliceResult, Tensor]:
        """Labels, confidence and S_cf of a slice, in the volume's own grid; and S_cf, (N,).

        probabilities: (N, s, s) of each structure by itself, on the network's grid at any
        resolution. Labels and confidence as in `result_on_grid`.
        """
        own = self.prepared.to_grid(probabilities.float()).clamp(0, 1)
        return self.result_on_grid(index, own, structures, revision)

    def result_on_grid(
        self, index: int, probabilities: Tensor, structures: Sequence[Structure], revision: int = 0
    ) -> tuple[SliceResult, Tensor]:
        """The same from probabilities (N, H, W) on the slice's own grid.

        Structures share voxels by soft aggregation (RGMP, Oh et al. 2018): every voxel gets the
        label that is likeliest, and its share as confidence.
        """
        import torch

        shares = soft_label_competition(probabilities)
        likelihood, which = shares.max(dim=0)
        scores = slice_confidence(shares)
        values = torch.tensor([0, *(s.label for s in structures)], dtype=torch.uint8)
        labels = values[which.cpu()].numpy()
        confidence = (likelihood * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return (
            SliceResult(
                index=self.slicing.index_in_volume(index),
                axis=self.slicing.axis,
                labels=np.ascontiguousarray(self.slicing.slice_to_volume_axes(labels)),
                confidence=np.ascontiguousarray(self.slicing.slice_to_volume_axes(confidence)),
                scores={
                    structure.name: round(float(score), 4)
                    for structure, score in zip(structures, scores, strict=True)
                },
                revision=revision,
            ),
            scores,
        )


@dataclass(frozen=True, eq=False)
class SlicedCase(SlicedVolume):
    """The same with the labels of a support case.

    labels: canonical slices (S, H, W).
    """

    name: str
    labels: npt.NDArray

    def masks(self, index: int, structures: Sequence[Structure]) -> npt.NDArray[np.float32]:
        """How much of each network pixel each structure covers in slice `index`: (N, S, S)."""
        plane = self.labels[index]
        return np.stack([self.prepared.resample_mask(plane, s.label) for s in structures])

    @property
    def labelled(self) -> npt.NDArray[np.intp]:
        """Indices of the slices that show any structure."""
        return np.flatnonzero(self.labels.reshape(len(self.labels), -1).any(axis=1))


@dataclass(frozen=True)
class SlicePreparation:
    """How every volume of a task is cut into slices and shown to the network."""

    axis: str
    preparation: Preprocessing

    @classmethod
    def learn(
        cls,
        support: Sequence[SupportCase],
        image_size: int,
        axis: str = "auto",
        window: str = "auto",
    ) -> tuple[SlicePreparation, list[SlicedCase]]:
        """Slicing axis, intensities and scale from the support cases, and the cases so prepared.

        axis: "auto", "sagittal", "coronal" or "axial". window: "auto", or "LOW,HIGH", the
        intensities that are black and white. Raises InputError.
        """
        slicings = support_geometries(support, axis)
        preparation = Preprocessing.fit(
            support, slicings, size=image_size, window=intensity_window(window)
        )
        cases = [
            SlicedCase(
                slicing,
                preparation.transform(case.volume, slicing),
                case.name,
                slicing.to_slices(case.labels),
            )
            for case, slicing in zip(support, slicings, strict=True)
        ]
        return cls(slicings[0].orientation, preparation), cases

    def apply(self, volume: Volume) -> SlicedVolume:
        """A new volume, prepared as the support was. Raises TaskError or InputError."""
        slicing = SliceGeometry.for_volume(volume, self.axis)
        validate_slice_count(volume, slicing)
        return SlicedVolume(slicing, self.preparation.transform(volume, slicing))

    @property
    def summary(self) -> dict[str, Any]:
        """For a person."""
        return {"modality": self.preparation.modality, "slicing axis": self.axis}

    def to_json(self) -> dict[str, Any]:
        return {"axis": self.axis, "preparation": self.preparation.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SlicePreparation:
        return cls(str(data["axis"]), Preprocessing.from_json(data["preparation"]))


class SliceFeatures:
    """The encoder's features of a volume's slices, each encoded once until it is dropped."""

    def __init__(self, backbone: Backbone, volume: SlicedVolume) -> None:
        self._backbone = backbone
        self._volume = volume
        self._kept: dict[int, ImageFeatures] = {}

    def __call__(self, index: int) -> ImageFeatures:
        if index not in self._kept:
            image = self._volume.image(index).to(self._backbone.device)
            self._kept[index] = self._backbone.encode(image)
        return self._kept[index]

    def drop(self, index: int) -> None:
        self._kept.pop(index, None)


def outwards(start: int, count: int) -> list[tuple[int, int]]:
    """All slices from `start` to both sides in turn: (index, direction), direction 0 first."""
    order = [(start, 0)]
    for distance in range(1, count):
        for direction in (1, -1):
            if 0 <= start + direction * distance < count:
                order.append((start + direction * distance, direction))
    return order
