"""How well confidence agrees with the reference: S_cf and per-voxel confidence.

- Rank: Spearman's correlation of S_cf with the slice's true Dice, over all slices and structures
  that have a score and a Dice (a structure that is neither there nor predicted has none).
- Calibration: in ten bins of per-voxel confidence, the mean gap between confidence and the share
  of voxels that are right, weighted by voxels. It is reported for the whole volume, where the
  background far away hides everything else, and for the box around all structures (truth and
  segmentation) with 5 voxels of room.
- Use: the share of all wrong voxels that lie in a tenth of the slices of their volume, that is,
  what correcting these slices would remove: for the slices of the lowest S_cf, for those with the
  most expected wrong voxels by the per-voxel confidence, and, for comparison, for those that really
  have the most, which is the best that any confidence could reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.overlap import bounding_box, dice
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structures import Structure

LEAST_CONFIDENT_SHARE = 0.1
_ROOM = 5
_BINS = 10


@dataclass(frozen=True)
class SliceCalibration:
    """One slice against the truth.

    scores: S_cf by structure. dice: by structure, without those that are neither
        there nor predicted.
    wrong: voxels with another label than the truth.
    doubt: expected wrong voxels, by the per-voxel confidence (the sum of 1 - confidence).
    """

    index: int
    scores: dict[str, float]
    dice: dict[str, float]
    wrong: int
    doubt: float

    @property
    def confidence(self) -> float:
        """The least S_cf; 1 where there is none to doubt. What Slicer's table is sorted by."""
        return min(self.scores.values(), default=1.0)

    def to_json(self) -> dict[str, Any]:
        rounded = {
            key: {name: round(value, 4) for name, value in values.items()}
            for key, values in (("scores", self.scores), ("dice", self.dice))
        }
        return {"index": self.index, **rounded, "wrong": self.wrong, "doubt": round(self.doubt, 1)}


@dataclass(frozen=True, eq=False)
class CaseCalibration:
    """One case against the truth.

    slices: every slice that has arrived, by index.
    near, everywhere: (2, 256) counts by stored confidence, of all voxels and of right ones, in
        the box around the structures and in the whole volume.
    """

    slices: tuple[SliceCalibration, ...]
    near: npt.NDArray[np.int64]
    everywhere: npt.NDArray[np.int64]


def check_case(
    outcome: SegmentationBuffer, truth: npt.NDArray, structures: Sequence[Structure]
) -> CaseCalibration:
    """Compare an outcome with the truth, on the same grid."""
    right = outcome.labels == truth
    checks = []
    axis = outcome.axis or 0
    for index, scores in sorted(outcome.scores.items()):
        labels, true_labels = outcome.labels.take(index, axis), truth.take(index, axis)
        overlaps = {
            structure.name: dice(true_labels == structure.label, labels == structure.label)
            for structure in structures
        }
        checks.append(
            SliceCalibration(
                index=index,
                scores=scores,
                dice={name: value for name, value in overlaps.items() if not np.isnan(value)},
                wrong=int(np.count_nonzero(labels != true_labels)),
                doubt=outcome.expected_error_voxels(index),
            )
        )
    box = bounding_box((truth > 0) | (outcome.labels > 0), _ROOM)
    return CaseCalibration(
        slices=tuple(checks),
        near=_counts(outcome.confidence[box], right[box]),
        everywhere=_counts(outcome.confidence, right),
    )


def summarise(cases: Sequence[CaseCalibration]) -> dict[str, Any]:
    """All cases together; None where a figure is not defined (no wrong voxel, too few slices)."""
    pairs = [
        (check.scores[name], value)
        for case in cases
        for check in case.slices
        for name, value in check.dice.items()
        if name in check.scores
    ]
    return {
        "spearman_of_slice_confidence_and_dice": _spearman(pairs),
        "slices_and_structures_compared": len(pairs),
        "calibration_error_near_structures": calibration_error(
            np.sum([case.near for case in cases], axis=0)
        ),
        "calibration_error_whole_volume": calibration_error(
            np.sum([case.everywhere for case in cases], axis=0)
        ),
        "wrong_voxels_in_least_confident_tenth": _share_found(
            cases, lambda check: check.confidence
        ),
        "wrong_voxels_in_most_doubtful_tenth": _share_found(cases, lambda check: -check.doubt),
        "wrong_voxels_in_worst_tenth": _share_found(cases, lambda check: -check.wrong),
    }


def calibration_error(counts: npt.NDArray[np.int64]) -> float | None:
    """Expected calibration error of (2, 256) counts; None of no voxels."""
    voxels, right = counts
    if not voxels.sum():
        return None
    confidence = np.arange(256) / 255
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    stated = np.bincount(bins, voxels * confidence, _BINS)
    found = np.bincount(bins, right, _BINS)
    return float(np.abs(stated - found).sum() / voxels.sum())


def _spearman(pairs: list[tuple[float, float]]) -> float | None:
    if len(pairs) < 3:
        return None
    scores, overlaps = np.array(pairs).T
    if np.ptp(scores) == 0 or np.ptp(overlaps) == 0:
        return None
    from scipy.stats import spearmanr  # 0.7 s to import.

    return float(spearmanr(scores, overlaps).statistic)


def _share_found(cases: Sequence[CaseCalibration], key: Any) -> float | None:
    found = total = 0
    for case in cases:
        ranked = sorted(case.slices, key=key)
        least = ranked[: int(np.ceil(LEAST_CONFIDENT_SHARE * len(ranked)))]
        found += sum(check.wrong for check in least)
        total += sum(check.wrong for check in ranked)
    return found / total if total else None


def _counts(confidence: npt.NDArray, right: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.stack(
        [
            np.bincount(confidence.ravel(), minlength=256),
            np.bincount(confidence[right], minlength=256),
        ]
    )
