"""The few-shot segmentation methods, by name.

Those of this package are listed here; others come by entry points of the group `oflsam2.methods`.
"""

from __future__ import annotations

import importlib
import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from OFLSAM2Core.errors import InputError

if TYPE_CHECKING:
    from OFLSAM2Core.methods.base import Method

GROUP = "oflsam2.methods"
DEFAULT = "ofl-sam2-atlas"
OF_SEQUENCES = "ofl-sam2"

_BUILT_IN = {
    "ofl-sam2-atlas": "OFLSAM2Core.methods.ofl_sam2_atlas:OflSam2Atlas",
    "ofl-sam2": "OFLSAM2Core.methods.ofl_sam2:OflSam2",
    "atlas": "OFLSAM2Core.methods.atlas:Atlas",
    "sam2-mask-prompt": "OFLSAM2Core.methods.sam2_mask_prompt:Sam2MaskPrompt",
    "fs-medsam2": "OFLSAM2Core.methods.fs_medsam2:FsMedSam2",
    "fate-sam2": "OFLSAM2Core.methods.fate_sam2:FateSam2",
    "support-matching": "OFLSAM2Core.methods.support_matching:SupportMatching",
    "rrl-medsam": "OFLSAM2Core.methods.rrl_medsam:RrlMedSam",
    "samed": "OFLSAM2Core.methods.samed:Samed",
    "unet-2d": "OFLSAM2Core.methods.unet_from_scratch:UNet2D",
    "unet-3d": "OFLSAM2Core.methods.unet_from_scratch:UNet3D",
}

logger = logging.getLogger(__name__)


def names() -> list[str]:
    """Names of the methods that can be asked for; nothing is imported."""
    others = [entry.name for entry in entry_points(group=GROUP) if entry.name not in _BUILT_IN]
    return [*_BUILT_IN, *others]


def default_for(sequence: bool) -> str:
    """The method that is used where none is named, for a sequence of frames or for volumes."""
    return OF_SEQUENCES if sequence else DEFAULT


def get_method(name: str) -> Method:
    """The method of a name.

    Raises InputError for an unknown one, or one of another package that cannot be loaded.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)()
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                return entry.load()()
            except Exception as error:  # Whatever another package's module raises.
                raise InputError(
                    f"The method '{name}' of another package ({entry.value}) cannot be loaded: "
                    f"{type(error).__name__}: {error}.",
                    "Update or remove that package.",
                ) from error
    raise InputError(f"There is no method '{name}'.", f"Use one of: {', '.join(names())}.")


def names_with_further_volumes() -> list[str]:
    """Names of this package's methods that take several co-registered volumes as one case."""
    from OFLSAM2Core.methods.base import uses_further_volumes

    return [name for name in _BUILT_IN if uses_further_volumes(get_method(name))]


def describe_all() -> list[dict[str, Any]]:
    """What each method says of itself; see `base.describe`. One that cannot be loaded is left out,
    and the log says why."""
    from OFLSAM2Core.methods.base import describe

    described = []
    for name in names():
        try:
            described.append(describe(get_method(name)))
        except Exception as error:  # Whatever another package does wrong.
            if name in _BUILT_IN:
                raise
            logger.warning("The method '%s' of another package cannot be used: %s", name, error)
    return described
