"""The support cases as atlases: coarse images and labels around their structures. Registered to a
volume, their labels give a prior of where structures are in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.atlas.deformable_registration import QUICK, coarse_affine, mapped, register
from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.atlas.mind import mind_ssc
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.methods.ofl_sam2_atlas.config import (
    COARSE,
    COMPARED,
    MORE_SIMILAR,
    NEARBY,
    PREDICTED,
    ROOM_AROUND,
)
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Intensity, Scan
from OFLSAM2Core.postprocessing.probability_volume import as_bytes

OnStep = Callable[[int], None]

Planes = Callable[[int], npt.NDArray]
"""Planes (N, rows, columns) of a canonical slice, by its index."""


@dataclass(frozen=True)
class Pose:
    """A hypothesis of where the structures are in a volume.

    middle: of the atlases' grid, mm from the middle of the first voxel. affine: from the grid to
    each atlas that was registered, (S, 3, 4). which: their numbers. dissimilarity: 1 less
    their mean correlation with the volume. centre: where the middle of the atlases' grid comes to
    lie, mm.
    """

    middle: Point
    affine: Tensor
    which: tuple[int, ...]
    dissimilarity: float
    centre: Point


@dataclass(frozen=True)
class Atlases:
    """grid: of each case, around the middle of its structures. images: (S, 1, D, H, W), labels: how
    much of each cell structures cover, (S, N, D, H, W), both in bytes. has: which case has which
    structure, (S, N). place: of the structures' middle in the volumes, as share of their sides,
    (S, 3). extent: of all structures together, mean of the cases, mm. grey: weight of grey values
    beside MIND."""

    grid: IsotropicGrid
    images: Tensor
    labels: Tensor
    has: Tensor
    place: Tensor
    extent: tuple[float, float, float]
    intensity: Intensity
    grey: float = 0.0

    @classmethod
    def of_support(
        cls,
        scans: Sequence[Scan],
        labels: Sequence[npt.NDArray],
        structures: Sequence[Structure],
        intensity: Intensity,
    ) -> Atlases:
        """labels: canonical slices of each scan."""
        boxes = [box_of(own, scan.slicing.steps) for scan, own in zip(scans, labels, strict=True)]
        extents = np.array([high - low for low, high in boxes])
        room = 2 * ROOM_AROUND * np.prod(extents.max(axis=0)) ** (1 / 3)
        whole = np.max([np.multiply(s.slicing.shape, s.slicing.steps) for s in scans], axis=0)
        finest = min(min(scan.slicing.steps) for scan in scans)
        grid = IsotropicGrid.holding(np.minimum(extents.max(axis=0) + room, whole).tolist(), finest)
        images, covered, places = [], [], []
        for scan, own in zip(scans, labels, strict=True):
            image, shown, place = atlas_of(grid, scan, own, structures, intensity)
            images.append(image)
            covered.append(shown)
            places.append(place)
        has = torch.stack([each.flatten(1).amax(dim=1) > 0 for each in covered])
        return cls(
            grid,
            torch.stack(images),
            torch.stack(covered),
            has,
            torch.stack(places),
            point(extents.mean(axis=0)),
            intensity,
        )

    @property
    def count(self) -> int:
        return len(self.images)

    @cached_property
    def centre(self) -> Point:
        """Centre of mass of the structures, mm from the grid's middle, mean of the atlases."""
        mass = self.labels.amax(dim=1).float()
        each = torch.einsum("sdhw,dhwk->sk", mass, self.grid.points())
        return point((each / mass.sum(dim=(1, 2, 3))[:, None]).mean(dim=0).numpy())

    @property
    def size(self) -> float:
        """Geometric mean of the structures' extents, mm."""
        return float(np.prod(self.extent) ** (1 / 3))

    def describe(self, greys: Tensor) -> Tensor:
        """Descriptors of grey values (B, 1, D, H, W) in [0, 1], which registration compares:
        (B, C, D, H, W)."""
        return torch.cat([mind_ssc(greys), self.grey * greys], dim=1)

    @cached_property
    def described(self) -> Tensor:
        """Descriptors of all atlases, (S, C, D, H, W)."""
        return self.describe(self.images.float() / 255)

    def cases(self, which: Sequence[int]) -> Tensor:
        """Descriptors of some atlases, by their numbers."""
        return self.described[list(which)]

    @torch.no_grad()
    def pose(
        self,
        scan: Scan,
        middles: Sequence[Point],
        which: Sequence[int],
        on_step: OnStep,
        predicted: Planes | None = None,
    ) -> list[Pose]:
        """A pose for each place: affine maps of the atlases, found from there, each atlas by
        itself.

        middles: of the atlases' grid at first, mm from the middle of the first voxel. which:
        numbers of the atlases. on_step: called before each step; raises what it raises. predicted:
        probabilities in [0, 1] of the structures, which are compared with the atlases' labels.
        """
        found = []
        for middle in middles:
            volume, cases, there = self._compared(scan, middle, which, predicted)
            inside, start = there.float(), torch.zeros(len(which), 3)
            affine = coarse_affine(self.grid, volume, inside, cases, start, on_step)
            alike = self._similarity(volume, inside, cases, affine)
            # The volume's point that lies in the middle of each atlas.
            at = torch.linalg.solve(affine[:, :, :3], -affine[:, :, 3:])[:, :, 0]
            best = alike.argmax()
            # The most similar atlas gives the centre: the mean of one right and two wrong is
            # nowhere.
            centre = point(np.array(middle) + at[best].numpy())
            found.append(Pose(middle, affine, tuple(which), 1 - float(alike.mean()), centre))
        return found

    def _compared(
        self, scan: Scan, middle: Point, which: Sequence[int], predicted: Planes | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What is compared: of the volume around a place, (1, C, D, H, W), and of some atlases,
        (S, C, D, H, W); and which cells lie in the volume, (D, H, W)."""
        image, there = image_on(self.grid, scan, self.intensity, middle)
        volume, cases = self.describe(image[None]), self.cases(which)
        if predicted is not None:
            shown, _ = self.grid.show(predicted, scan.slicing, middle)
            labels = self.labels[list(which)].float() / 255
            # The weight of a structure is the share of it that was predicted: one that was missed
            # must not pull the atlases away.
            size = labels.mean(dim=0).sum(dim=(1, 2, 3)).clamp(min=1e-6)
            weight = PREDICTED * (shown.sum(dim=(1, 2, 3)) / size).clamp(max=1)[:, None, None, None]
            volume = torch.cat([volume, weight * shown[None]], dim=1)
            cases = torch.cat([cases, weight * labels], dim=1)
        return volume, cases, there

    def _similarity(self, volume: Tensor, inside: Tensor, cases: Tensor, affine: Tensor) -> Tensor:
        """Correlation of a volume and each atlas, (S,), where both are."""
        grid = self.grid.coarser(COARSE)
        own, there = F.avg_pool3d(volume, COARSE), F.avg_pool3d(inside[None], COARSE)
        points = mapped(grid.points(), affine)
        shown = grid.at(F.avg_pool3d(cases, COARSE), points)
        held = (points.abs() <= grid.half).all(dim=-1)[:, None] * there[None]
        usual = channel_means(cases)
        one, other = (own - usual) * held, (shown - usual) * held
        norms = one.square().sum(dim=(1, 2, 3, 4)) * other.square().sum(dim=(1, 2, 3, 4))
        return (one * other).sum(dim=(1, 2, 3, 4)) / norms.sqrt().clamp(min=1e-6)

    @torch.no_grad()
    def prior_of(
        self,
        scan: Scan,
        pose: Pose,
        *,
        deform: bool,
        on_step: OnStep,
        predicted: Planes | None = None,
    ) -> AtlasPrior:
        """The atlas prior at a pose. deform: whether the atlases are deformed from there; otherwise
        affine maps alone on a coarser grid, which is enough to find where structures are.
        predicted: as of `pose`."""
        index = list(pose.which)
        volume, cases, there = self._compared(scan, pose.middle, index, predicted)
        labels = self.labels[index].float() / 255
        coarse = self.grid.coarser(COMPARED)
        if deform:
            starts = pose.affine[:, :, 3]
            points = register(
                self.grid, volume, there.float(), cases, starts, on_step, pose.affine, QUICK
            )
            shown = self.grid.at(labels, points, "zeros")
            few = F.avg_pool3d(points.permute(0, 4, 1, 2, 3), COMPARED).permute(0, 2, 3, 4, 1)
            grid, inside = self.grid, there
        else:
            few = mapped(coarse.points(), pose.affine)
            shown = coarse.at(F.avg_pool3d(labels, COMPARED), few, "zeros")
            grid, inside = coarse, F.avg_pool3d(there.float()[None], COMPARED)[0] > 0.5
        apart = coarse.at(F.avg_pool3d(cases, COMPARED), few) - F.avg_pool3d(volume, COMPARED)
        weights = similarity_weights(apart) * self.has[index][:, :, None, None, None]
        if deform:
            weights = F.interpolate(weights, self.grid.shape, mode="trilinear")
        shares = (weights * shown).sum(dim=0) / weights.sum(dim=0).clamp(min=1e-6)
        return AtlasPrior(shares * inside, grid, pose.middle, scan.slicing)

    def to_tensors(self) -> dict[str, Tensor]:
        return {
            "spacing": torch.tensor(self.grid.spacing, dtype=torch.float64),
            "images": self.images,
            "labels": self.labels,
            "has": self.has,
            "place": self.place,
            "extent": torch.tensor(self.extent, dtype=torch.float64),
            "grey": torch.tensor(self.grey),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], intensity: Intensity) -> Atlases:
        """Raises TaskError when something is missing."""
        try:
            images = tensors["images"]
            slices, rows, columns = images.shape[2:]
            return cls(
                IsotropicGrid(float(tensors["spacing"]), (slices, rows, columns)),
                images,
                tensors["labels"],
                tensors["has"],
                tensors["place"],
                point(tensors["extent"].numpy()),
                intensity,
                float(tensors["grey"]),
            )
        except (KeyError, ValueError) as error:
            raise TaskError(
                "The learned task lacks what its support cases look like.",
                "Learn it again from the support cases.",
            ) from error

    def with_grey(self, grey: float) -> Atlases:
        return replace(self, grey=grey)


@dataclass(frozen=True)
class _Covered:
    """Planes of labels: (N, rows, columns), 1 where a structure is."""

    labels: npt.NDArray
    structures: Sequence[Structure]

    def __call__(self, index: int) -> npt.NDArray:
        return np.stack([self.labels[index] == each.label for each in self.structures])


def atlas_of(
    grid: IsotropicGrid,
    scan: Scan,
    labels: npt.NDArray,
    structures: Sequence[Structure],
    intensity: Intensity,
) -> tuple[Tensor, Tensor, Tensor]:
    """A support case on a grid around the middle of its structures: image (1, D, H, W) and labels
    (N, D, H, W) in bytes, and where the middle lies, as share of the volume's sides, (3,). labels:
    canonical slices."""
    low, high = box_of(labels, scan.slicing.steps)
    middle = point((low + high) / 2)
    image = as_bytes(image_on(grid, scan, intensity, middle)[0])
    shown, there = grid.show(_Covered(labels, structures), scan.slicing, middle)
    sides = np.multiply(scan.slicing.shape, scan.slicing.steps)
    place = torch.from_numpy((np.array(middle) / sides).astype(np.float32))
    return image, as_bytes(shown * there), place


def channel_means(cases: Tensor) -> Tensor:
    """Mean of each channel of descriptors (S, C, D, H, W): (1, C, 1, 1, 1)."""
    return cases.mean(dim=(0, 2, 3, 4), keepdim=True)


def similarity_weights(apart: Tensor) -> Tensor:
    """Weight of each atlas in each cell, (S, 1, D, H, W): locally weighted voting. apart:
    difference of descriptors of the atlases and the volume, (S, C, D, H, W)."""
    apart = apart.square().mean(dim=1, keepdim=True)
    around = F.pad(apart, [NEARBY // 2] * 6, mode="replicate")
    nearby = F.avg_pool3d(around, NEARBY, stride=1)
    return torch.exp(-MORE_SIMILAR * nearby / nearby.mean().clamp(min=1e-6))


def image_on(
    grid: IsotropicGrid, scan: Scan, intensity: Intensity, middle: Point
) -> tuple[Tensor, Tensor]:
    """Grey values in [0, 1], (1, D, H, W), on a grid around a place of a volume, and which cells
    lie in it, (D, H, W). Volumes without an absolute scale are scaled by what the grid holds: what
    lies beyond must not darken it."""
    stored, there = grid.show(lambda index: scan.stack[index][None], scan.slicing, middle)
    values = stored[0][there].numpy() if bool(there.any()) else stored.numpy()
    intensities, greys = intensity.curve_of(values.reshape(-1, 1, 1))
    shown = np.interp(stored.numpy(), intensities, greys).astype(np.float32)
    return torch.from_numpy(shown), there


def box_of(
    labels: npt.NDArray, steps: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The box of all structures: its corners, mm from the middle of the first voxel, (3,) each."""
    box = bounding_box(np.asarray(labels > 0))
    first = np.array([side.start for side in box]) - 0.5
    last = np.array([side.stop for side in box]) - 0.5
    return first * np.array(steps), last * np.array(steps)


def point(at: npt.NDArray) -> Point:
    slices, rows, columns = (float(each) for each in at)
    return slices, rows, columns
