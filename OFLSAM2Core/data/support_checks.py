"""Warnings about support cases that look wrong, before anything is learned from them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.slice_geometry import SliceGeometry
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError

_log = logging.getLogger(__name__)

# A volume of so few slices may well have one that is labelled.
_FEW_SLICES = 4

# The share of slices between the first and the last labelled one that may be without labels.
_GAPS = 0.5


def check_support(cases: Sequence[SupportCase]) -> None:
    """Warn of the same volume twice and of slices that were left out when labels were drawn.

    Raises InputError where the labels of a case are its image.
    """
    for case in cases:
        refuse_image_as_labels(case.volume, case.labels)
        if not case.volume.is_sequence:
            _check_labelled_slices(case)
    for (one, first), (two, second) in combinations(enumerate(cases, start=1), 2):
        if not _same(first.volume.array, second.volume.array):
            continue
        labels = "the same" if _same(first.labels, second.labels) else "different"
        _log.warning(
            "Support cases %d ('%s') and %d ('%s') are the same volume with %s labels: they teach "
            "no more than one.",
            one,
            first.name,
            two,
            second.name,
            labels,
        )


def refuse_image_as_labels(volume: Volume, labels: npt.NDArray) -> None:
    """Raises InputError where the labels are the volume itself."""
    if _same(volume.array, labels):
        raise InputError(
            f"The segmentation of '{volume.name}' is the image itself: every voxel has the same "
            "value.",
            "Give the segmentation of the image.",
        )


def _same(one: npt.NDArray, other: npt.NDArray) -> bool:
    if one.shape != other.shape:
        return False
    return all(np.array_equal(*planes) for planes in zip(one, other, strict=True))


def _check_labelled_slices(case: SupportCase) -> None:
    if case.labels.all():
        _log.warning(
            "No voxel of '%s' is background: there is nothing to tell its structures from.",
            case.name,
        )
    geometry = SliceGeometry.for_volume(case.volume)
    labelled = np.flatnonzero(geometry.to_slices(case.labels).any(axis=(1, 2)))
    total = geometry.count
    if len(labelled) == 1 and total > _FEW_SLICES:
        finding = f"Only 1 of {total} {geometry.orientation} slices"
    elif len(labelled) > 1 and len(labelled) < (1 - _GAPS) * (labelled[-1] - labelled[0] + 1):
        between = int(labelled[-1] - labelled[0] + 1)
        finding = f"Only {len(labelled)} of {between} neighbouring {geometry.orientation} slices"
    else:
        return
    _log.warning(
        "%s of '%s' have labels. The others count as slices without the structures: label all "
        "slices that show them, or crop the volume.",
        finding,
        case.name,
    )
