"""Leave-one-out among the support cases: each is located by the others, as a new volume will be by
all. It shows how far the atlas prior can be relied on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases, Pose, box_of
from OFLSAM2Core.methods.ofl_sam2_atlas.config import GREYS, OTHERS
from OFLSAM2Core.methods.ofl_sam2_atlas.places import likely_places
from OFLSAM2Core.methods.ofl_sam2_atlas.region import region_of
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan
from OFLSAM2Core.slice_position.regression import PositionNoise, PositionScale

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class LeaveOneOut:
    """The result of leave-one-out.

    priors: the atlas prior of each case by the other cases; None where there are none. dice: of
    each structure's prior, mean of the cases, (N,), NaN where there are none. position_noise: how
    wrong slice positions are. centre_error: of the region's middle in a slice, mm. beyond: how far
    structures reach beyond the located slices, as share of their height.
    """

    priors: tuple[AtlasPrior | None, ...]
    dice: npt.NDArray[np.float64]
    position_noise: PositionNoise
    centre_error: float
    beyond: float

    @classmethod
    def not_done(cls, cases: int, structures: int) -> LeaveOneOut:
        """The result where it was not done, or there is a single case."""
        unknown = np.full(structures, np.nan)
        return cls((None,) * cases, unknown, PositionNoise(), 0.0, 0.0)

    @property
    def has_prior(self) -> bool:
        """Whether there is a prior at all."""
        return any(prior is not None for prior in self.priors)


def leave_one_out(
    atlases: Atlases,
    scans: Sequence[Scan],
    labels: Sequence[npt.NDArray],
    structures: Sequence[Structure],
    on_step: OnStep,
) -> tuple[Atlases, LeaveOneOut]:
    """The atlases, two at least, with the weight of GREYS that locates held-out cases better; and
    the result."""
    count = atlases.count
    others = [[(own + n) % count for n in range(1, count)][:OTHERS] for own in range(count)]
    tried = []
    for grey in GREYS:
        compared = atlases.with_grey(grey)
        poses, overlaps = [], []
        for own, scan in enumerate(scans):
            known, pose = best_pose(compared, scan, labels[own], structures, others[own], on_step)
            poses.append(pose)
            overlaps.append(known)
        tried.append((float(np.nanmean(overlaps)), compared, poses))
    _, best, poses = max(tried, key=lambda each: each[0])
    priors, overlaps, pairs, centres, beyond = [], [], [], [], []
    for own, (scan, pose) in enumerate(zip(scans, poses, strict=True)):
        prior = best.prior_of(scan, pose, deform=True, on_step=on_step)
        priors.append(prior)
        overlaps.append(overlap(prior, labels[own], structures))
        found = region_of(prior)
        step = scan.slicing.steps
        true = PositionScale.of_labels(labels[own], step[0])
        low, high = box_of(labels[own], step)
        if found is None:
            centres.append(float(max(high - low)) / 2)
            beyond.append(0.5)
            continue
        pairs.append((found.scale, true))
        middle = (low + high)[1:] / 2 / np.array(step[1:]) + 0.5
        apart = (np.array(found.centre) - middle) * np.array(step[1:])
        centres.append(float(np.abs(apart).max()))
        height = high[0] - low[0]
        missed = max(
            (found.first - 0.5) * step[0] - low[0], high[0] - (found.stop - 0.5) * step[0], 0.0
        )
        beyond.append(float(missed / height))
    error = PositionNoise.of_pairs(pairs) if pairs else PositionNoise(0.4, 0.25)
    held_out = LeaveOneOut(
        tuple(priors),
        np.nanmean(np.array(overlaps), axis=0),
        error,
        float(np.median(centres)),
        float(np.median(beyond)),
    )
    return best, held_out


def best_pose(
    atlases: Atlases,
    scan: Scan,
    labels: npt.NDArray,
    structures: Sequence[Structure],
    which: Sequence[int],
    on_step: OnStep,
) -> tuple[npt.NDArray[np.float64], Pose]:
    """The hypothesis, among those that some atlases give of where a case's structures are, whose
    prior overlaps most with the case's labels; and the Dice of that, (N,)."""
    hypotheses = []
    for pose in atlases.pose(scan, likely_places(atlases, scan, which), which, on_step):
        prior = atlases.prior_of(scan, pose, deform=False, on_step=on_step)
        hypotheses.append((overlap(prior, labels, structures), pose))
    # In a new volume the head decides between hypotheses; here the labels stand for it.
    return max(hypotheses, key=lambda each: float(np.nanmean(each[0])))


def overlap(
    prior: AtlasPrior, labels: npt.NDArray, structures: Sequence[Structure]
) -> npt.NDArray[np.float64]:
    """Dice of each structure, (N,), NaN where the case does not have it, on the atlases' grid; what
    lies beyond it counts as missed."""
    grid, slicing = prior.grid, prior.slicing
    found = []
    shown, there = grid.show(
        lambda index: np.stack([labels[index] == each.label for each in structures]),
        slicing,
        prior.middle,
    )
    cell = grid.spacing**3 / float(np.prod(slicing.steps))
    for number, each in enumerate(structures):
        true = float((labels == each.label).sum()) / cell
        own = (prior.shares[number] > 0.5).float()
        both = float((torch.minimum(own, shown[number]) * there).sum())
        found.append(2 * both / (true + float(own.sum())) if true else np.nan)
    return np.array(found)
