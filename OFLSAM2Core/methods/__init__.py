"""The few-shot segmentation methods, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OFLSAM2Core.errors import InputError

if TYPE_CHECKING:
    from OFLSAM2Core.methods.base import Method

_DESCRIPTIONS = {
    "ofl-sam2": "memory attention, a mapping network updated online, and their adaptive fusion "
    "(OFL-SAM2, arXiv 2512.24861)",
}


def available() -> dict[str, str]:
    """Method names and what each is."""
    return dict(_DESCRIPTIONS)


def get_method(name: str) -> Method:
    """The method of a name. Raises InputError for an unknown one."""
    if name == "ofl-sam2":
        from OFLSAM2Core.methods.ofl_sam2_atlas import OflSam2

        return OflSam2()
    raise InputError(f"There is no method '{name}'.", f"Use one of: {', '.join(_DESCRIPTIONS)}.")
