"""Options that every method has which cuts volumes into slices and maps intensities."""

from __future__ import annotations

import math
from dataclasses import dataclass

from OFLSAM2Core.errors import InputError
from OFLSAM2Core.methods.options import Options, option

AXES = ("auto", "sagittal", "coronal", "axial")

AXIS_HELP = "Axis along which volumes are cut; auto: along the support's thickest voxels."

WINDOW_HELP = "Intensities shown as black and as white, LOW,HIGH; auto: learned from the support."


def intensity_window(text: str) -> tuple[float, float] | None:
    """The two intensities of "LOW,HIGH"; None for "auto". Raises InputError for other text."""
    if text == "auto":
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"The intensity window is '{text}'.",
            "Give the lower and the higher intensity as LOW,HIGH (-160,240), or auto.",
        )
    return low, high


@dataclass(frozen=True)
class SlicingOptions(Options):
    """How a volume is cut and its intensities are mapped, and nothing else."""

    slicing_axis: str = option("auto", AXIS_HELP, choices=AXES)
    intensity_window: str = option("auto", WINDOW_HELP)
