"""Rates a case's result as done, empty or doubtful, and finds where to look first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from OFLSAM2Core.cohort.cases import DONE, DOUBTFUL, EMPTY
from OFLSAM2Core.data.segmentation_buffer import SegmentationBuffer
from OFLSAM2Core.data.structure_status import describe_status, structure_status
from OFLSAM2Core.data.structures import Structure

DOUBTFUL_BELOW = 0.7
"""S_cf is the Dice that the method expects; results below this are usually corrected by hand."""

_SLICES_LISTED = 5


def judge(
    outcome: SegmentationBuffer,
    structures: Sequence[Structure],
    doubtful_below: float = DOUBTFUL_BELOW,
    sizes: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """State, reason, confidence and volumes of a segmented case, as plain values.

    sizes: of the support, by a structure's name the least and the greatest, ml. A structure that is
    far smaller or larger makes the case doubtful, as in `segment`.
    A structure's confidence is the mean S_cf of the slices it was found in, weighted by its area
    there; of one that was not found, the least S_cf of any slice (how sure it is that there is
    none). The case's is the least of its structures'. "ml" is None for a sequence.
    """
    axis = outcome.axis or 0
    slices = np.moveaxis(outcome.labels, axis, 0)
    described: list[dict[str, Any]] = []
    for structure in structures:
        areas = np.count_nonzero(slices == structure.label, axis=(1, 2))
        described.append(
            {
                "name": structure.name,
                "label": structure.label,
                "color": [round(part, 4) for part in structure.color],
                "voxels": int(areas.sum()),
                "ml": None
                if outcome.volume.is_sequence
                else round(outcome.milliliters(structure.label), 4),
                "confidence": _confidence(outcome, structure.name, areas),
            }
        )
    confidence = min(one["confidence"] for one in described)
    missing = [one["name"] for one in described if one["voxels"] == 0]
    low = [one["name"] for one in described if one["confidence"] < doubtful_below]
    reasons = [f"Not found: {', '.join(missing)}."] if missing else []
    reasons += [_unlike_support(one, (sizes or {}).get(one["name"])) for one in described]
    reasons += [f"Confidence {confidence:.2f}: {', '.join(low)}."] if low and not missing else []
    reasons = [reason for reason in reasons if reason]
    state = DOUBTFUL if reasons else DONE
    if len(missing) == len(described):
        state, reasons = EMPTY, ["Nothing was found."]
    return {
        "state": state,
        "reason": " ".join(reasons),
        "confidence": confidence,
        "structures": described,
        "review": _review(outcome),
    }


def _unlike_support(described: dict[str, Any], support: tuple[float, float] | None) -> str:
    """A sentence where a structure that was found has another size than any in the support."""
    milliliters = described["ml"]
    if milliliters is None or not described["voxels"]:
        return ""
    status = structure_status(described["voxels"], milliliters, support)
    sentence = describe_status(status, support, milliliters)
    return f"{described['name']}: {sentence}." if sentence else ""


def _confidence(outcome: SegmentationBuffer, name: str, areas: np.ndarray) -> float:
    scores = {index: own[name] for index, own in outcome.scores.items() if name in own}
    if not scores:
        return 0.0
    weights = np.array([areas[index] for index in scores], np.float64)
    values = np.array(list(scores.values()))
    if not weights.any():
        return round(float(values.min()), 4)
    return round(float(np.average(values, weights=weights)), 4)


def _review(outcome: SegmentationBuffer) -> list[dict[str, Any]]:
    """The slices to look at first, as `segment` lists them: index along the axis, and voxels
    expected to be wrong."""
    listed = outcome.slices_to_review(_SLICES_LISTED)
    errors = {index: outcome.expected_error_voxels(index) for index in listed}
    return [
        {"index": index, "expected_errors": round(errors[index], 1)}
        for index in listed
        if errors[index] >= 0.5
    ]
