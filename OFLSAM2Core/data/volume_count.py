"""How many co-registered volumes a case has: the same number in the support and in every target."""

from __future__ import annotations

from collections.abc import Sequence

from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.errors import InputError

OF_TASK = "each case of the learned task"
"""What those are called that a volume to segment is held against."""


def difference(name: str, count: int, wanted: int, others: str) -> str:
    """A sentence that says so where a case is another number of volumes than others; else "".

    count: of its volumes, the first one included. wanted: of the others. others: what they are
    called, such as "each support case".
    """
    if count == wanted:
        return ""
    return f"'{name}' is {in_words(count)}, and {others} is {in_words(wanted)}."


def check_volume_counts(cases: Sequence[SupportCase]) -> None:
    """Raises InputError where support cases have different numbers."""
    first = cases[0].volume
    for case in cases[1:]:
        count, wanted = case.volume.volume_count, first.volume_count
        if reason := difference(case.name, count, wanted, f"'{first.name}'"):
            raise InputError(
                reason,
                "Give the same number of co-registered volumes for each case, in the same order.",
            )


def check_volume_count(volume: Volume, wanted: int) -> None:
    """wanted: of each support case. Raises InputError."""
    reason = difference(volume.name, volume.volume_count, wanted, OF_TASK)
    if not reason:
        return
    if wanted == 1:
        hint = "Give the first volume alone, or learn a task from cases of several volumes."
    else:
        hint = f"Give {wanted} volumes of the patient, in the order of the support cases."
    raise InputError(reason, hint)


def in_words(count: int) -> str:
    return "one volume" if count == 1 else f"{count} co-registered volumes"
