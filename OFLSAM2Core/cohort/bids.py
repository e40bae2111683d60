"""A cohort's folder as a BIDS derivatives data set.

https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html: a discrete
segmentation is `sub-X_..._desc-oflsam2_dseg.nii.gz`, what its values mean a `dseg.tsv` beside it.
The confidence has no suffix of its own in BIDS; it and what else lies there is in `.bidsignore`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy.typing as npt

from OFLSAM2Core import __version__
from OFLSAM2Core.cohort.cases import CaseInput
from OFLSAM2Core.cohort.folder import PREVIEWS, REPORT, TASK
from OFLSAM2Core.cohort.manifest import FILE_NAME
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.evaluation.report import write_text
from OFLSAM2Core.io.writing import write_confidence, write_labelmap

BIDS_VERSION = "1.10.0"

_ENTITIES = (
    "sub",
    "ses",
    "sample",
    "task",
    "acq",
    "ce",
    "trc",
    "rec",
    "dir",
    "run",
    "echo",
    "space",
)
"""Those of a source's name that its derivatives keep, in BIDS' order."""

_ENTITY = re.compile(r"^([a-z]+)-([A-Za-z0-9+]+)$")

_DATATYPES = ("anat", "pet", "perf", "func", "dwi", "fmap", "micr")


class BidsLayout:
    """sub-X/[ses-Y/]anat/sub-X_[...]_desc-oflsam2_dseg.nii.gz with its .tsv and .json."""

    def stem(self, case: CaseInput) -> str:
        """Without ".nii.gz"."""
        entities = entities_of(case)
        folders = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
        name = "_".join(f"{key}-{value}" for key, value in entities.items())
        return "/".join([*folders, _datatype(case), f"{name}_desc-oflsam2_dseg"])

    def write(
        self,
        folder: Path,
        case: CaseInput,
        volume: Volume,
        labels: npt.NDArray,
        confidence: npt.NDArray,
        structures: tuple[Structure, ...],
    ) -> None:
        """Write the four files."""
        stem = str(folder / self.stem(case))
        Path(stem).parent.mkdir(parents=True, exist_ok=True)
        write_labelmap(f"{stem}.nii.gz", labels, volume)
        write_confidence(f"{stem.removesuffix('_dseg')}_confidence.nii.gz", confidence, volume)
        write_text(Path(f"{stem}.tsv"), _lookup_table(structures))
        write_text(Path(f"{stem}.json"), _json(_sidecar(case)))


def entities_of(case: CaseInput) -> dict[str, str]:
    """BIDS entities of a case's outputs, in BIDS' order: those of its name where that is a BIDS
    name, with `space` saying on which image's grid ("T1w"); else the name as the subject.

    A subject made of a name ends in a hash of it where letters had to go: two names stay two.
    """
    parts = case.name.split("_")
    pairs = [match for part in parts if (match := _ENTITY.match(part))]
    found = {match[1]: match[2] for match in pairs}
    suffix = parts[-1]
    if (
        parts[0].startswith("sub-")
        and [match[0] for match in pairs] == parts[: len(pairs)]
        and len(found) == len(pairs) >= len(parts) - 1
        and set(found) <= set(_ENTITIES)
        and (len(pairs) == len(parts) or (suffix.isalnum() and "space" not in found))
    ):
        if len(pairs) < len(parts):
            found["space"] = suffix
        return {key: found[key] for key in _ENTITIES if key in found}
    letters = "".join(letter for letter in case.name if letter.isascii() and letter.isalnum())
    if letters != case.name:
        letters += hashlib.sha256(case.name.encode()).hexdigest()[:6]
    return {"sub": letters}


def write_dataset_files(folder: Path, structures: tuple[Structure, ...]) -> None:
    """`dataset_description.json`, `README.md` and `.bidsignore`, once for the data set.

    Raises ResourceError where the disk does not take them.
    """
    names = ", ".join(structure.name for structure in structures)
    description = {
        "Name": f"Segmentations of {names} by oflsam2",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "oflsam2",
                "Version": __version__,
                "Description": "Few-shot segmentation learned from a few labelled volumes; "
                "for research, not for clinical use.",
            }
        ],
    }
    write_text(folder / "dataset_description.json", _json(description))
    write_text(
        folder / "README.md",
        f"Segmentations of {names}, by oflsam2 {__version__}.\n\n"
        "`*_dseg.nii.gz` holds label values (`*_dseg.tsv` says of what), `*_confidence.nii.gz`\n"
        "255 times the probability of the label shown. `report.html` shows all cases, the least\n"
        "sure first; `manifest.jsonl` records how each was made.\n",
    )
    ignored = [
        "*_confidence.nii.gz",
        "*_dseg.dcm",
        FILE_NAME,
        "manifest.damaged-*.jsonl",
        REPORT,
        TASK,
        PREVIEWS,
    ]
    write_text(folder / ".bidsignore", "\n".join(ignored) + "\n")


def _datatype(case: CaseInput) -> str:
    parent = Path(case.source).parent.name
    return parent if parent in _DATATYPES else "anat"


def _lookup_table(structures: tuple[Structure, ...]) -> str:
    rows = ["index\tname\tcolor"]
    for structure in sorted(structures, key=lambda structure: structure.label):
        name = re.sub(r"\s+", " ", structure.name)
        color = "#" + "".join(f"{round(255 * part):02x}" for part in structure.color)
        rows.append(f"{structure.label}\t{name}\t{color}")
    return "\n".join(rows) + "\n"


def _sidecar(case: CaseInput) -> dict[str, Any]:
    # A file's name, not its path: that says where somebody keeps their data.
    return {
        "Manual": False,
        "SpatialReference": "orig",
        "RawSources": [Path(source).name for source in case.sources],
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
