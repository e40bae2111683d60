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
    """prior: what the atlases say by the affine maps of `pose`. region: where that is."""

    pose: Pose
    prior: AtlasPrior
    region: Region


def hypotheses(atlases: Atlases, scan: Scan, on_step: OnStep) -> list[Hypothesis]:
    """The most similar first; none where the atlases come to lie beside the volume from every
    place."""
    places = likely_places(atlases, scan, range(atlases.count))
    return hypotheses_from(atlases, scan, places, range(atlases.count), on_step)


def hypotheses_from(
    atlases: Atlases, scan: Scan, places: Sequence[Point], which: Sequence[int], on_step: OnStep
) -> list[Hypothesis]:
    """From some places, middles of the atlases' grid, mm; by the atlases with these numbers."""
    found = []
    for pose in _distinct(atlases, atlases.pose(scan, places, which, on_step)):
        prior = atlases.prior_of(scan, pose, deform=False, on_step=on_step)
        region = region_of(prior)
        if region is not None and region.stop > 0 and region.first < scan.slicing.count:
            found.append(Hypothesis(pose, prior, region))
    return found


def _distinct(atlases: Atlases, poses: Sequence[Pose]) -> list[Pose]:
    """The most similar of those that lie at the same place, at most MOST_HYPOTHESES."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda each: each.dissimilarity):
        apart = [float(np.linalg.norm(np.subtract(pose.centre, k.centre))) for k in kept]
        if all(each > SAME_PLACE * atlases.size for each in apart):
            kept.append(pose)
    return kept[:MOST_HYPOTHESES]
