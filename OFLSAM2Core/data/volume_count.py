"""How many co-registered volumes a case has: the same number in the support and in every target."""

from __future__ import annotations

from collections.abc import Sequence

from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError


def check_volume_counts(cases: Sequence[SupportCase]) -> None:
    """Raises InputError where support cases have different numbers."""
    first = cases[0].volume
    for case in cases[1:]:
        if case.volume.volume_count != first.volume_count:
            raise InputError(
                f"The support case '{case.name}' is {in_words(case.volume.volume_count)}, and "
                f"'{first.name}' is {in_words(first.volume_count)}.",
                "Give the same number of co-registered volumes for each case, in the same order.",
            )


def check_volume_count(volume: Volume, wanted: int) -> None:
    """wanted: of each support case. Raises InputError."""
    if volume.volume_count == wanted:
        return
    if wanted == 1:
        hint = "Give the first volume alone, or learn a task from cases of several volumes."
    else:
        hint = f"Give {wanted} volumes of the patient, in the order of the support cases."
    raise InputError(
        f"'{volume.name}' is {in_words(volume.volume_count)}; the task was learned from cases of "
        f"{in_words(wanted)}.",
        hint,
    )


def in_words(count: int) -> str:
    return "one volume" if count == 1 else f"{count} co-registered volumes"
