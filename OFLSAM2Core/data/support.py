"""Support cases with one value for one structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from OFLSAM2Core.data.structures import MOST_STRUCTURES, Structure, ambiguous_codes, find_structure
from OFLSAM2Core.data.volume import SupportCase
from OFLSAM2Core.errors import InputError


def harmonize(cases: Sequence[SupportCase], allow_missing: bool = False) -> tuple[SupportCase, ...]:
    """The cases with the same structures, and the same value for the same structure.

    Structures are matched by terminology code, then by name, and described as the first case that
    has them describes them. Their values are kept where no two cases use one value for different
    structures; else they are numbered from 1.

    allow_missing: accept a structure that is missing in some cases.
    Raises InputError where a structure is missing, or a case has no labelled voxel.
    """
    shared = ambiguous_codes(case.structures for case in cases)
    structures = _common(cases, shared)
    harmonized = []
    for case in cases:
        own = np.zeros(case.labels.shape, dtype=np.uint8)
        for wanted in structures:
            here = find_structure(wanted, case.structures, shared)
            if here is not None and (case.labels == here.label).any():
                own[case.labels == here.label] = wanted.label
            elif not allow_missing:
                raise InputError(
                    f"The structure '{wanted.name}' is missing in the support case '{case.name}'.",
                    "Label it there, leave it out everywhere, or allow missing structures.",
                )
        if not own.any():
            raise InputError(
                f"The segmentation of the support case '{case.name}' is empty.",
                "Label the structures in it, or leave the case out.",
            )
        harmonized.append(replace(case, labels=own, structures=structures))
    return tuple(harmonized)


def fit_structures(
    case: SupportCase, structures: tuple[Structure, ...], *, no_others: bool = False
) -> SupportCase:
    """A case with the structures of a learned task, and their values.

    What it has besides them becomes background, or is an error with `no_others`, which also allows
    a case without any of them. Raises InputError.
    """
    shared = ambiguous_codes((case.structures, structures))
    for structure in case.structures if no_others else ():
        unknown = find_structure(structure, structures, shared) is None
        if unknown and (case.labels == structure.label).any():
            names = ", ".join(each.name for each in structures)
            raise InputError(
                f"The segmentation of '{case.name}' holds '{structure.name}', which is no "
                f"structure of the learned task ({names}).",
                "Rename the segment, or take it out of the segmentation.",
            )
    own = np.zeros(case.labels.shape, dtype=np.uint8)
    for wanted in structures:
        here = find_structure(wanted, case.structures, shared)
        if here is not None:
            own[case.labels == here.label] = wanted.label
    if not own.any() and not no_others:
        names = ", ".join(structure.name for structure in structures)
        raise InputError(
            f"The segmentation of '{case.name}' holds no structure of the learned task ({names}).",
            "Pick the segmentation that was made with this task.",
        )
    return replace(case, labels=own, structures=structures)


def _common(cases: Sequence[SupportCase], shared: frozenset[str]) -> tuple[Structure, ...]:
    common: list[Structure] = []
    for case in cases:
        for structure in case.structures:
            if find_structure(structure, common, shared) is None:
                common.append(structure)
    if len(common) > MOST_STRUCTURES:
        raise InputError(
            f"The support cases have {len(common)} different structures together.",
            f"Leave out some ({MOST_STRUCTURES} at most), or give the same ones the same name.",
        )
    if len({structure.label for structure in common}) < len(common):
        common = [replace(each, label=number) for number, each in enumerate(common, start=1)]
    return tuple(common)
