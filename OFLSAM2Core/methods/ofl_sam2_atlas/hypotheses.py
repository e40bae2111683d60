"""Hypotheses of where the structures are in a volume: places that look like the atlases, from each
of which the atlases are registered by affine maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from OFLSAM2Core.atlas.isotropic_grid import Point
from OFLSAM2Core.atlas.propagated_labels import AtlasPrior
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases, Pose
from OFLSAM2Core.methods.ofl_sam2_atlas.config import MOST_HYPOTHESES, SAME_PLACE
from OFLSAM2Core.methods.ofl_sam2_atlas.places import likely_places
from OFLSAM2Core.methods.ofl_sam2_atlas.region import Region, region_of
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan

OnStep = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A place at which the structures may be. prior: the atlas prior by the affine maps of `pose`.
    region: the part of the volume in which that prior lies."""

    pose: Pose
    prior: AtlasPrior
    region: Region


def hypotheses(atlases: Atlases, scan: Scan, on_step: OnStep) -> list[Hypothesis]:
    """Hypotheses by all atlases, the most similar first. The list is empty where the atlases lie
    beside the volume from every place."""
    places = likely_places(atlases, scan, range(atlases.count))
    return hypotheses_from(atlases, scan, places, range(atlases.count), on_step)


def hypotheses_from(
    atlases: Atlases, scan: Scan, places: Sequence[Point], which: Sequence[int], on_step: OnStep
) -> list[Hypothesis]:
    """Hypotheses from given places, the most similar first.

    places: middles of the atlases' grid, mm. which: numbers of the atlases that are registered.
    """
    found = []
    for pose in _distinct(atlases, atlases.pose(scan, places, which, on_step)):
        prior = atlases.prior_of(scan, pose, deform=False, on_step=on_step)
        region = region_of(prior)
        if region is not None and region.stop > 0 and region.first < scan.slicing.count:
            found.append(Hypothesis(pose, prior, region))
    return found


def _distinct(atlases: Atlases, poses: Sequence[Pose]) -> list[Pose]:
    """One pose for each place, the most similar one; at most MOST_HYPOTHESES."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda each: each.dissimilarity):
        apart = [float(np.linalg.norm(np.subtract(pose.centre, k.centre))) for k in kept]
        if all(each > SAME_PLACE * atlases.size for each in apart):
            kept.append(pose)
    return kept[:MOST_HYPOTHESES]
