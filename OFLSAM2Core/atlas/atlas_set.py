"""A look by registration: the support cases laid over a volume, and what their labels say there.

All other looks learn from three cases what structures look like. Here each case is bent until it
looks like the volume, and its labels go along: multi-atlas segmentation (Iglesias and Sabuncu,
Medical Image Analysis 2015), where a case counts for more the liker it looks to the volume nearby.
It needs no training, sees in 3D, and is wrong in other places (docs/decisions/0022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from OFLSAM2Core.atlas.deformable_registration import STEPS, register
from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.atlas.label_fusion import locally_weighted
from OFLSAM2Core.atlas.mind import mind_ssc
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.data.overlap import bounding_box, dice
from OFLSAM2Core.data.results import Progress, ProgressCallback
from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import TaskError
from OFLSAM2Core.postprocessing.probability_volume import ProbabilityVolume, as_bytes
from OFLSAM2Core.preprocessing.preprocessing import PreprocessedVolume
from OFLSAM2Core.preprocessing.support_stack import SupportStack

AROUND = 24.0
"""mm beside the structures in which cases are compared, too, or OF_EXTENT where that is more."""

OF_EXTENT = 0.15
"""Of what they measure together."""

OTHERS = 2
"""By how many others a support case is known, to see how well that goes."""

COMPARING = "laying support cases over one another"
"""What is said while they are."""

TRUSTED = 2.0
"""Weight of registration beside all else, where both are expected to be equally good."""

MOST = 0.85
"""Of both: its share is never more."""

UNTRIED = 0.7
"""Dice that is expected of one support case, which no other has been laid over."""

TOLD = 0.7
"""Mean Dice of structures, where support cases are known by each other, from which on readouts are
told what these say. Hearts, of which cases in other phases know 0.66, lose by it; prostates gain
from 0.73 on (docs/decisions/0026)."""

GREYS = (0.0, 2.0)
"""How much a grey value from black to white counts beside one of `mind_ssc`: one of these,
whichever lays support cases over one another better. CT and hearts gain by grey values, prostates
with and without a coil lose."""


@dataclass(frozen=True)
class RegistrationStart:
    """Where registration begins in a volume. middle: of the grid, mm from the middle of the first
    voxel. starts: mm to be added to a point of it in each case, (S, 3). which: cases, (S,) bool."""

    middle: Point
    starts: Tensor
    which: Tensor


@dataclass(frozen=True)
class AtlasSet:
    """grid: of each case, around the middle of its structures. images: grey values of the cases,
    (S, 1, D, H, W), and labels: how much of each cell structures cover, (S, N, D, H, W), both in
    bytes. centres: of structures in mm from the grid's middle, (S, N, 3), NaN where a case does not
    have one. partners: as `symmetric_label_map` gives them: each case is laid over a volume in a
    mirror, too. grey: one of GREYS. reliable: Dice of each structure where a support case is known
    by the others alone, (N,), NaN where there are none."""

    grid: IsotropicGrid
    images: Tensor
    labels: Tensor
    centres: Tensor
    partners: Tensor | None
    grey: float
    reliable: Tensor

    @classmethod
    def from_support(
        cls,
        support: Sequence[SupportStack],
        structures: Sequence[Structure],
        partners: npt.NDArray[np.intp] | None,
        device: torch.device,
        on_progress: ProgressCallback,
    ) -> tuple[AtlasSet, list[AtlasPrior] | None]:
        """What is kept of the support, and tried on it; partners: as `symmetric_label_map` gives
        them. And what the other cases say of each, None where there are none or they know little.

        Raises what `on_progress` raises.
        """
        boxes = [_box_of(case) for case in support]
        extent = np.max([high - low for low, high in boxes], axis=0)
        room = np.maximum(2 * AROUND, 2 * OF_EXTENT * extent)
        whole = np.max(
            [np.multiply(case.slicing.shape, case.slicing.steps) for case in support], axis=0
        )
        finest = min(min(case.slicing.steps) for case in support)
        grid = IsotropicGrid.holding(np.minimum(extent + room, whole).tolist(), finest)
        images, labels, centres = [], [], []
        for case, (low, high) in zip(support, boxes, strict=True):
            middle = _point((low + high) / 2)
            images.append(_image(grid, case.prepared, case.slicing, middle)[0])
            shown, there = grid.show(_Covered(case.labels, structures), case.slicing, middle)
            labels.append(as_bytes(shown * there))
            centres.append(_centres(grid, shown * there))
        look = cls(
            grid,
            torch.stack(images),
            torch.stack(labels),
            torch.stack(centres),
            None if partners is None else torch.from_numpy(partners),
            GREYS[0],
            torch.full((len(structures),), torch.nan),
        ).to(device)
        if len(support) == 1:
            return look, None
        look, said = look._tried(on_progress)
        if not float(look.reliable.nanmean()) >= TOLD:
            return look, None
        votes = [
            AtlasPrior(shares, grid, _point((low + high) / 2), case.slicing)
            for shares, case, (low, high) in zip(said, support, boxes, strict=True)
        ]
        return look, votes

    def to(self, device: torch.device) -> AtlasSet:
        """On a device; on the processor instead of one that has no gradient of sampling in 3D."""
        if device.type == "mps":
            device = torch.device("cpu")
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            centres=self.centres.to(device),
            partners=None if self.partners is None else self.partners.to(device),
            reliable=self.reliable.to(device),
        )

    @torch.no_grad()
    def begin(self, centres: Tensor) -> RegistrationStart | None:
        """Where structures were drawn; None where too little is.

        centres: of what was drawn of structures, in mm from the middle of the first voxel, (N, 3).
        """
        cases = self._with_mirrored()
        of_cases, of_volume = cases._middles(centres.to(self.images.device))
        usable = ~of_cases.isnan().any(dim=1)
        if not usable.any():
            return None
        # The grid lies around the volume's structures as it does around the cases'.
        middle = (of_volume - of_cases)[usable].mean(dim=0)
        here = _point(middle.cpu().numpy())
        return RegistrationStart(here, of_cases - (of_volume - middle), usable)

    @torch.no_grad()
    def read(
        self,
        prepared: PreprocessedVolume,
        slicing: SliceGeometry,
        began: RegistrationStart,
        on_progress: ProgressCallback,
    ) -> AtlasPrior:
        """What the cases say of a volume."""
        device = self.images.device
        image, inside = _image(self.grid, prepared, slicing, began.middle)

        def on_step(step: int) -> None:
            on_progress(Progress("finish", step, STEPS, "laying the support over"))

        found = self._with_mirrored()._laid_over(
            image[None].to(device), inside.float().to(device), began.starts, began.which, on_step
        )
        return AtlasPrior(found, self.grid, began.middle, slicing)

    def _laid_over(
        self,
        image: Tensor,
        inside: Tensor,
        starts: Tensor,
        which: Tensor,
        on_step: Callable[[int], None],
    ) -> Tensor:
        """Probabilities on a volume's grid, (N, D, H, W), by the cases `which`, (S,) bool."""
        volume, cases = (self._looks(each.float() / 255) for each in (image, self.images[which]))
        points = register(self.grid, volume, inside, cases, starts[which], on_step)
        return self._said(volume, cases, points, which)

    def _said(
        self, volume: Tensor, cases: Tensor, points: Tensor, which: Tensor | list[int]
    ) -> Tensor:
        """`locally_weighted` votes of the cases `which`; points: of `register`."""
        labels = self.grid.at(self.labels[which].float() / 255, points)
        return locally_weighted(labels, self.grid.at(cases, points) - volume, self._has[which])

    def _looks(self, greys: Tensor) -> Tensor:
        """What is compared of grey values (B, 1, D, H, W): (B, CHANNELS + 1, D, H, W)."""
        return torch.cat([mind_ssc(greys), self.grey * greys], dim=1)

    @property
    def _has(self) -> Tensor:
        """Which case has which structure, (S, N)."""
        return ~self.centres.isnan().any(dim=2)

    def _middles(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """Of the structures that both a case and a volume have, where they lie in the case and in
        the volume, (S, 3) each; NaN where there is none. centres: of the volume's, (N, 3)."""
        in_cases, in_volume = self.centres + 0 * centres, centres + 0 * self.centres
        return in_cases.nanmean(dim=1), in_volume.nanmean(dim=1)

    def _with_mirrored(self) -> AtlasSet:
        """Twice as many cases, the second half as in a mirror, where that is to be."""
        if self.partners is None:
            return self
        centres = self.centres[:, self.partners] * self.centres.new_tensor([1.0, 1.0, -1.0])
        return replace(
            self,
            images=torch.cat([self.images, self.images.flip(-1)]),
            labels=torch.cat([self.labels, self.labels[:, self.partners].flip(-1)]),
            centres=torch.cat([self.centres, centres]),
            partners=None,
        )

    @torch.no_grad()
    def _tried(self, on_progress: ProgressCallback) -> tuple[AtlasSet, Tensor]:
        """With that of GREYS by which support cases are known best, each by the others; and what
        these then say of it, (S, N, D, H, W)."""
        found = []
        for number, grey in enumerate(GREYS):
            look = replace(self, grey=grey)

            def on_step(step: int, first: int = number * STEPS) -> None:
                on_progress(Progress("learn", first + step, len(GREYS) * STEPS, COMPARING))

            reliable, said = look._known_by_others(on_step)
            found.append((replace(look, reliable=reliable), said))
        return max(found, key=lambda each: float(each[0].reliable.nanmean().nan_to_num()))

    def _known_by_others(self, on_step: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        """Mean Dice of each structure where a support case is known by up to OTHERS others, in a
        mirror, too, if that is to be, (N,), NaN of those that no two have; and what these say of
        each case, (S, N, D, H, W)."""
        cases, count = self._with_mirrored(), len(self.images)
        said = torch.zeros_like(self.labels, dtype=torch.float32)
        owns, others, starts = [], [], []
        for own in range(count):
            in_cases, in_own = cases._middles(self.centres[own])
            after = [(own + n) % count for n in range(1, count)]
            known = [n for n in after if not in_cases[n].isnan().any()][:OTHERS]
            for other in [m for n in known for m in range(n, len(cases.images), count)]:
                owns.append(own)
                others.append(other)
                starts.append((in_cases - in_own)[other])
        if not owns:
            return self.reliable, said
        looks, inside = self._looks(cases.images.float() / 255), torch.ones(self.grid.shape)
        points = register(
            self.grid,
            looks[owns],
            inside.to(looks),
            looks[others],
            torch.stack(starts),
            on_step,
        )
        of_cases = []
        for own in set(owns):
            pairs = [n for n, each in enumerate(owns) if each == own]
            which = [others[n] for n in pairs]
            said[own] = cases._said(looks[own], looks[which], points[pairs], which)
            both = zip(said[own].cpu() > 0.5, self.labels[own].cpu() > 127, strict=True)
            each = torch.tensor([dice(drawn.numpy(), true.numpy()) for drawn, true in both])
            told = self._has[own] & cases._has[which].any(dim=0)
            of_cases.append(torch.where(told, each.to(points), torch.nan))
        return torch.stack(of_cases).nanmean(dim=0), said

    def to_tensors(self) -> dict[str, Tensor]:
        """By name, for a learned task."""
        own = {
            "spacing": torch.tensor(self.grid.spacing, dtype=torch.float64),
            "images": self.images,
            "labels": self.labels,
            "centres": self.centres,
            "grey": torch.tensor(self.grey),
            "reliable": self.reliable,
        }
        return own if self.partners is None else {**own, "partners": self.partners}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> AtlasSet:
        """Raises TaskError when something is missing."""
        try:
            images = tensors["images"]
            slices, rows, columns = images.shape[2:]
            look = cls(
                IsotropicGrid(float(tensors["spacing"]), (slices, rows, columns)),
                images,
                tensors["labels"],
                tensors["centres"],
                tensors.get("partners"),
                float(tensors["grey"]),
                tensors["reliable"],
            )
        except (KeyError, ValueError) as error:
            raise TaskError(
                "The learned task lacks what its support cases look like.",
                "Learn it again from the support cases.",
            ) from error
        return look.to(device)


def shares(
    drawn: ProbabilityVolume, seen: ProbabilityVolume, reliable: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How much registration counts for each structure, of all, (N,), by how good it and all else
    are to be expected.

    seen: what registration says. Its votes tell how alike cases are once they are laid over this
    volume, and the support how well that went there: the mean of both counts. reliable: the
    latter, Dice of each structure, (N,); NaN where a single case has it, which agrees with itself.
    """
    expected = np.where(
        np.isnan(reliable), _odds(UNTRIED), np.sqrt(_odds(reliable) * _odds(seen.expected_dice()))
    )
    weights = TRUSTED * expected / _odds(drawn.expected_dice())
    return np.minimum(weights / (1 + weights), MOST)


def averaged(
    drawn: ProbabilityVolume,
    seen: ProbabilityVolume,
    share: npt.NDArray[np.float64],
    device: torch.device,
) -> ProbabilityVolume:
    """The mean of both probabilities. seen: what registration says; share: what it counts for."""
    of_seen = torch.from_numpy(share).float().to(device)[:, None, None]
    return ProbabilityVolume.of_slices(
        torch.lerp(drawn.slice(index, device), seen.slice(index, device), of_seen)
        for index in range(drawn.count)
    )


def _odds(dice: npt.NDArray[np.float64] | float) -> npt.NDArray[np.float64]:
    likely = np.clip(dice, 0.02, 0.98)
    return likely / (1 - likely)


@dataclass(frozen=True)
class _Covered:
    """Planes of labels: (N, rows, columns), 1 where a structure is."""

    labels: npt.NDArray
    structures: Sequence[Structure]

    def __call__(self, index: int) -> npt.NDArray:
        return np.stack([self.labels[index] == each.label for each in self.structures])


def _image(
    grid: IsotropicGrid, prepared: PreprocessedVolume, slicing: SliceGeometry, middle: Point
) -> tuple[Tensor, Tensor]:
    """Grey values in bytes, (1, D, H, W), and which cells lie in the volume."""
    image, inside = grid.show(lambda index: prepared.grey(index)[:1], slicing, middle)
    return as_bytes(image), inside


def _box_of(case: SupportStack) -> tuple[npt.NDArray, npt.NDArray]:
    """Of all structures: where it begins and ends in mm, (3,) each."""
    box = bounding_box(np.asarray(case.labels > 0))
    steps = np.array(case.slicing.steps)
    first = np.array([side.start for side in box]) - 0.5
    last = np.array([side.stop for side in box]) - 0.5
    return first * steps, last * steps


def _centres(grid: IsotropicGrid, shown: Tensor) -> Tensor:
    """Of structures (N, D, H, W), in mm from the grid's middle: (N, 3), NaN where nothing is."""
    mass = shown.flatten(1).sum(dim=1)
    at = torch.einsum("ndhw,dhwk->nk", shown, grid.points())
    return torch.where(mass[:, None] > 0, at / mass[:, None], torch.nan)


def _point(at: npt.NDArray) -> Point:
    slices, rows, columns = (float(each) for each in at)
    return slices, rows, columns
