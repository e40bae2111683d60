"""Places in a volume where the structures may be: where it looks most like the atlases, moved there
as they are, and where the support has them in its field of view. Hypotheses, nothing more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.atlas.isotropic_grid import IsotropicGrid, Point
from OFLSAM2Core.methods.ofl_sam2_atlas.atlases import Atlases, channel_means, image_on, point
from OFLSAM2Core.methods.ofl_sam2_atlas.config import LEAST_SEEN, PLACES, SAME_PLACE, SEARCHED
from OFLSAM2Core.methods.ofl_sam2_atlas.scan import Scan


@torch.no_grad()
def likely_places(atlases: Atlases, scan: Scan, which: Sequence[int]) -> list[Point]:
    """Middles of the atlases' grid, mm from the middle of the first voxel, the most similar first;
    none nearer than SAME_PLACE to a more similar one."""
    finer, coarser = SEARCHED
    slicing = scan.slicing
    sides = np.multiply(slicing.shape, slicing.steps)
    middle = (sides - np.array(slicing.steps)) / 2
    usual = atlases.place[list(which)].mean(dim=0).numpy() * sides
    step = atlases.grid.spacing * coarser
    template = atlases.grid.coarser(coarser).shape
    # As far beyond the volume as still leaves LEAST_SEEN of the atlas within it.
    beyond = np.array(template) * step * (1 - LEAST_SEEN)
    cells = np.maximum(np.ceil((sides + 2 * beyond) / step).astype(int), np.array(template) + 1)
    ratio = coarser // finer
    shape = (int(cells[0]) * ratio, int(cells[1]) * ratio, int(cells[2]) * ratio)
    wide = IsotropicGrid(atlases.grid.spacing * finer, shape)
    image, there = image_on(wide, scan, atlases.intensity, point(middle))
    volume = F.avg_pool3d(atlases.describe(image[None]), ratio)
    seen = F.avg_pool3d(there.float()[None, None], ratio)
    shown = F.avg_pool3d(atlases.images[list(which)].float() / 255, finer)
    cases = F.avg_pool3d(atlases.describe(shown), ratio)
    apart = dissimilarity(volume, seen, cases)
    away = torch.stack(
        torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in apart.shape], indexing="ij"), -1
    )
    at = torch.from_numpy(middle).float() + away * step
    found: list[Point] = []
    left = apart.clone()
    for _ in range(PLACES):
        best = int(left.argmin())
        if not torch.isfinite(left.flatten()[best]):
            break
        place = at.reshape(-1, 3)[best]
        found.append(point(place.numpy()))
        left[(at - place).norm(dim=-1) < 2 * SAME_PLACE * atlases.size] = torch.inf
    near = [float(np.linalg.norm(np.subtract(usual, each))) for each in found]
    if all(each > SAME_PLACE * atlases.size for each in near):
        found.append(point(usual))
    return found


def dissimilarity(volume: Tensor, there: Tensor, cases: Tensor) -> Tensor:
    """1 less the correlation of a volume and atlases that are moved to every place, over the cells
    that lie in the volume: (D', H', W'), infinite where these are less than LEAST_SEEN of what
    could be at most. By the mean square difference, places where nothing is would be preferred to
    places where all is right but a little beside.

    volume: (1, C, D, H, W). there: share of each cell in the volume, (1, 1, D, H, W). cases: (S, C,
    d, h, w).
    """
    whole = torch.ones_like(cases[:1, :1])
    usual = channel_means(cases)
    own, others = (volume - usual) * there, cases - usual
    compared = F.conv3d(there, whole)
    norms = F.conv3d(own.square().sum(dim=1, keepdim=True), whole) * F.conv3d(
        there, others.square().sum(dim=1, keepdim=True)
    )
    alike = (F.conv3d(own, others) / norms.sqrt().clamp(min=1e-6)).mean(dim=1)[0]
    enough = compared[0, 0] >= LEAST_SEEN * compared.max()
    return torch.where(enough, 1 - alike, torch.inf)
