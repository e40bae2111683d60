"""Whether a slice in a mirror could be another patient's, as the support shows it.

Prostates and necks are alike on both sides, atria and hippocampi are not. Where they are, half of
the augmented copies are mirrored (docs/decisions/0018), and what is on the left is then on the
right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from OFLSAM2Core.data.overlap import bounding_box
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.preprocessing.support_stack import SupportStack

SIDE = 32
"""Slices, and cells along their sides, in which cases are compared."""

COLUMNS = 256
"""Rows and columns of what the network is shown, at most, before that: ten structures at SAM 2's
size would take more than a gigabyte."""

LEFT_TO_RIGHT = ("axial", "coronal")
"""Slice axes for which a slice's columns run from left to right."""

SHAPES_ALIKE = 0.9
"""Least overlap of mirrored structures with those of other cases, relative to the overlap of
unmirrored ones. It is 0.9 to 1.05 on prostates and necks, 0.5 to 0.8 on atria, hippocampi and
hearts."""

IMAGES_ALIKE = 0.8
"""The same for the correlation of the images around the structures, which is 0.84 to 1.05 on
prostates and necks. A mirrored left ventricle or gland looks like an unmirrored one; its
surroundings do not."""


def symmetric_label_map(
    support: Sequence[SupportStack], structures: Sequence[Structure]
) -> npt.NDArray[np.intp] | None:
    """The number of each structure's mirror image, (N,): usually its own; for the left parotid
    gland that of the right one. None where mirrored slices are unlike the other cases, or where
    there is only one case."""
    if support[0].slicing.orientation not in LEFT_TO_RIGHT:
        return None
    pairs = list(permutations([_Around.structures_of(case, structures) for case in support], 2))
    if not pairs:
        return None
    straight = _mean([_overlaps(one.shapes, other.shapes) for one, other in pairs])
    mirrored = _mean([_overlaps(one.shapes.flip(-1), other.shapes) for one, other in pairs])
    most, partners = mirrored.max(dim=1)
    are_pairs = torch.equal(partners[partners], torch.arange(len(structures)))
    shapes = most.sum() > SHAPES_ALIKE * straight.diagonal().sum()
    straight = _mean([(one.image * other.image).mean() for one, other in pairs])
    mirrored = _mean([(one.image.flip(-1) * other.image).mean() for one, other in pairs])
    images = mirrored > IMAGES_ALIKE * straight
    return partners.numpy() if are_pairs and bool(shapes and images) else None


def flip_left_right(
    image: npt.NDArray[np.float32],
    masks: npt.NDArray[np.float32],
    partners: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """An image (3, S, S) and its masks (N, S, S), mirrored: columns from last to first, and each
    mask in the place of its partner."""
    return (
        np.ascontiguousarray(image[..., ::-1]),
        np.ascontiguousarray(masks[partners][..., ::-1]),
    )


@dataclass(frozen=True)
class _Around:
    """A case, around the middle of its structures.

    shapes: of the box that holds them all, shares of cells that are a structure's, (N, SIDE, SIDE,
    SIDE). image: of the same slices, all that the network is shown, with the box's middle in the
    middle: (SIDE, SIDE, SIDE), each slice with a mean of 0 and a deviation of 1.
    """

    shapes: Tensor
    image: Tensor

    @classmethod
    def structures_of(cls, case: SupportStack, structures: Sequence[Structure]) -> _Around:
        full = np.flatnonzero(case.labels.any(axis=(1, 2)))
        chosen = np.linspace(full[0], full[-1], SIDE).round().astype(int)
        to_network = case.prepared.resample_mask
        masks = torch.stack(
            [
                torch.stack([_small(to_network(case.labels[n], each.label)) for n in chosen])
                for each in structures
            ]
        )
        _, rows, columns = bounding_box(masks.numpy().max(axis=0) > 0)
        shapes = F.adaptive_avg_pool3d(masks[:, :, rows, columns], SIDE)
        to_middle = (masks.shape[-1] - columns.start - columns.stop) // 2
        shown = torch.stack([_small(case.prepared.image(n).mean(axis=0)) for n in chosen])
        image = F.adaptive_avg_pool2d(shown.roll(to_middle, dims=-1), SIDE)
        image = image - image.mean(dim=(1, 2), keepdim=True)
        return cls(shapes, image / image.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp(1e-6))


def _small(plane: npt.NDArray[np.float32]) -> Tensor:
    """What the network is shown (S, S), no larger than needed."""
    return F.adaptive_avg_pool2d(torch.from_numpy(plane)[None], min(len(plane), COLUMNS))[0]


def _mean(each: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(each)).mean(dim=0)


def _overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Dice of shares: of each structure of one case with each of the other, (N, N)."""
    first, second = one.flatten(1)[:, None], other.flatten(1)[None]
    both = torch.minimum(first, second).sum(dim=-1)
    return 2 * both / (first.sum(dim=-1) + second.sum(dim=-1)).clamp(min=1e-6)
