"""The support cases that the user picked, kept in the parameter node and so in the saved scene."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.errors import InputError
from OFLSAM2SlicerLib.cases import SupportPair, check_pair, structures_of
from OFLSAM2SlicerLib.further_volumes import read_references, why_not_so_many, write_references
from OFLSAM2SlicerLib.structures import FoundStructure, structures_across

COUNT = "supportCount"
IGNORED = "ignoredStructures"


@dataclass(frozen=True)
class SupportRow:
    """A pair, and whether it can be used: a problem, or a remark, or neither."""

    pair: SupportPair
    structures: tuple[Structure, ...] = ()
    problem: str = ""
    remark: str = ""


class SupportList:
    """Support cases and unticked structures in a vtkMRMLScriptedModuleNode."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def pairs(self) -> list[SupportPair]:
        """Those of which both nodes are still in the scene."""
        count = int(self._node.GetParameter(COUNT) or 0)
        found = []
        for position in range(count):
            volume = self._node.GetNodeReference(f"support{position}.volume")
            labels = self._node.GetNodeReference(f"support{position}.labels")
            if volume is not None and labels is not None:
                further = read_references(self._node, f"support{position}.")
                found.append(SupportPair(volume, labels, further))
        return found

    def set_pairs(self, pairs: Iterable[SupportPair]) -> None:
        pairs = list(pairs)
        before = int(self._node.GetParameter(COUNT) or 0)
        modified = self._node.StartModify()
        for position in range(max(before, len(pairs))):
            pair = pairs[position] if position < len(pairs) else None
            for role, node in (
                ("volume", pair.volume_node if pair else None),
                ("labels", pair.labels_node if pair else None),
            ):
                node_id = node.GetID() if node is not None else None
                self._node.SetNodeReferenceID(f"support{position}.{role}", node_id)
            further = pair.further_nodes if pair else ()
            write_references(self._node, f"support{position}.", further)
        self._node.SetParameter(COUNT, str(len(pairs)))
        self._node.EndModify(modified)

    def add(self, pairs: Iterable[SupportPair]) -> int:
        """Add pairs of nodes that are not in the list yet; returns how many."""
        known = self.pairs()
        listed = [(pair.volume_node, pair.labels_node) for pair in known]
        new = [pair for pair in pairs if (pair.volume_node, pair.labels_node) not in listed]
        self.set_pairs(known + new)
        return len(new)

    def set_further(self, position: int, volumes: Iterable[Any]) -> None:
        """Set the volumes that are co-registered with a pair's own."""
        pairs = self.pairs()
        pairs[position] = replace(pairs[position], further_nodes=tuple(volumes))
        self.set_pairs(pairs)

    def remove(self, positions: Iterable[int]) -> None:
        gone = set(positions)
        self.set_pairs(pair for at, pair in enumerate(self.pairs()) if at not in gone)

    def ignored(self) -> set[str]:
        """Names of structures the user unticked."""
        text = self._node.GetParameter(IGNORED)
        return set(json.loads(text)) if text else set()

    def set_ignored(self, names: Iterable[str]) -> None:
        self._node.SetParameter(IGNORED, json.dumps(sorted(names)))


def rows_of(pairs: Iterable[SupportPair]) -> list[SupportRow]:
    """Each pair with the note beside it."""
    rows = []
    for pair in pairs:
        try:
            remark = " ".join(check_pair(pair))
            structures = tuple(structures_of(pair.labels_node))
            rows.append(SupportRow(pair, structures, remark=remark))
        except InputError as error:
            rows.append(SupportRow(pair, problem=str(error).replace("\n", " ")))
    return rows


def structures_in(rows: Iterable[SupportRow]) -> list[FoundStructure]:
    return structures_across([row.structures for row in rows if not row.problem])


def why_not(
    target: Any,
    rows: list[SupportRow],
    found: list[FoundStructure],
    ignored: set[str],
    allow_missing: bool,
    further: Sequence[Any] = (),
) -> str:
    """Why a run cannot be started, in one or two sentences; "" where it can.

    further: volumes that are co-registered with the target.
    """
    if target is None:
        return "Pick the volume to segment."
    if not rows:
        return "Add at least one support case."
    broken = [row for row in rows if row.problem]
    if broken:
        return broken[0].problem
    if any(row.pair.volume_node is target for row in rows):
        return f"'{target.GetName()}' is the volume to segment and a support case at once."
    counts = {row.pair.volume_count: row.pair.name for row in rows}
    if len(counts) > 1:
        most = max(counts)
        few, others = counts[min(counts)], f"'{counts[most]}'"
        return why_not_so_many(few, min(counts), most, others)
    wanted = rows[0].pair.volume_count
    if several := why_not_so_many(target.GetName(), 1 + len(further), wanted, "each support case"):
        return several
    ticked = [one for one in found if one.structure.name not in ignored]
    if not ticked:
        return "Tick at least one structure."
    missing = [one for one in ticked if len(one.cases) < len(rows)]
    if missing and not allow_missing:
        return (
            f"'{missing[0].structure.name}' is in {len(missing[0].cases)} of {len(rows)} support "
            "cases: untick it, label it in the others, or allow structures to be missing."
        )
    return ""
