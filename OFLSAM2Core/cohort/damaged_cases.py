"""Cases that cannot be segmented, found by their headers before anything is learned."""

from __future__ import annotations

from collections.abc import Iterable

from OFLSAM2Core.cohort.cases import SEGMENTED, CaseInput
from OFLSAM2Core.cohort.manifest import ManifestContent
from OFLSAM2Core.errors import OFLSAM2Error
from OFLSAM2Core.io.first_look import look_at_volume

DamagedCases = dict[tuple[str, ...], OFLSAM2Error]
"""By the sources of a case: what is wrong with it."""


def find_damaged(cases: Iterable[CaseInput], content: ManifestContent) -> DamagedCases:
    """What is missing, damaged or no volume. Cases that have a result already are not looked at.

    Raises what is wrong with the first case where there are several and none of them can be used.
    """
    segmented = {record.sources for record in content.in_state(*SEGMENTED)}
    looked_at = [case for case in cases if case.sources not in segmented]
    damaged: DamagedCases = {}
    for case in looked_at:
        try:
            for source in case.sources:
                look_at_volume(source)
        except OFLSAM2Error as error:
            damaged[case.sources] = error
    if looked_at and len(damaged) == len(looked_at) and not segmented:
        first = next(iter(damaged.values()))
        count = len(damaged)
        raise type(first)(
            first.message
            if count == 1
            else f"None of {count} cases can be segmented. The first: {first.message}",
            first.hint,
        )
    return damaged
