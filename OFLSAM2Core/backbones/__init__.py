"""Frozen backbones, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

DEFAULT_BACKBONE = "litemedsam"

PRECISIONS = ("auto", "float32", "bfloat16")
"""What a user may ask an encoder to calculate in."""

if TYPE_CHECKING:
    import torch

    from OFLSAM2Core.backbones.base import Backbone
    from OFLSAM2Core.data.results import ProgressCallback


def load_backbone(
    name: str,
    device: torch.device | str = "cpu",
    weights: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Backbone:
    """A backbone of the manifest on a device; its weights are fetched where they are missing.

    Raises WeightsError, or InputError for an unknown name.
    """
    if name == "litemedsam":
        from OFLSAM2Core.backbones.litemedsam import LiteMedSamBackbone

        return LiteMedSamBackbone.load(device, weights=weights, on_progress=on_progress)
    from OFLSAM2Core.backbones.sam2_backbone import Sam2Backbone

    return Sam2Backbone.load(name, device, weights=weights, on_progress=on_progress)
