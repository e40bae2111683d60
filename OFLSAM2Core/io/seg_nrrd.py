"""Slicer's segmentation files (`.seg.nrrd`).

Written by Slicer's own `slicerio`; read by ourselves, since that knows segments by their place in
the header, not by their number, and refuses headers that Slicer reads.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import slicerio
from slicerio.segmentation import terminology_entry_from_string

from OFLSAM2Core.data.image_identity import IDENTITY_TAG, image_identity
from OFLSAM2Core.data.structures import Structure, check_structures
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.io.image_files import read_header
from OFLSAM2Core.io.image_header import LPS_TO_RAS, damaged
from OFLSAM2Core.io.label_table import default_color
from OFLSAM2Core.io.voxels import read_voxels
from OFLSAM2Core.io.writing import check_writable
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2Core.runtime.counted import counted

SEGMENTATION_EXTENSIONS = (".seg.nrrd",)

_log = logging.getLogger(__name__)

# The largest value looked for in a file; more would not be label values.
_MOST = 65535

# "category~type~modifier~anatomic context~region~modifier" after the context's name.
_TERMINOLOGY_PARTS = 7


@dataclass(frozen=True)
class Segment:
    """What a header says of one segment. value, layer: where its voxels are."""

    id: str
    name: str
    value: int
    layer: int
    color: tuple[float, float, float]
    terminology: str


def has_segments(fields: dict[str, str]) -> bool:
    """Whether key/value pairs of a NRRD header describe segments."""
    return any(re.match(r"Segment\d+_", key) for key in fields)


def segments_of(fields: dict[str, str]) -> list[Segment]:
    """The segments that key/value pairs describe, by their number, whatever numbers there are.

    Raises ValueError for values and layers that are no numbers.
    """
    numbers = {int(found[1]) for key in fields if (found := re.match(r"Segment(\d+)_", key))}
    segments = []
    for place, number in enumerate(sorted(numbers)):
        of = {key.partition("_")[2]: value for key, value in fields.items()
              if key.startswith(f"Segment{number}_")}  # fmt: skip
        name_of = of.get("ID") or f"Segment_{number}"
        value = int(of.get("LabelValue") or 1)
        segments.append(
            Segment(
                id=name_of,
                name=of.get("Name") or name_of,
                value=value,
                # Before layers were shared (Slicer 4.10) every segment had its own, in order.
                layer=int(of.get("Layer") or place),
                color=_color(of.get("Color", ""), value),
                terminology=_terminology(of.get("Tags", "")),
            )
        )
    return segments


def read_seg_nrrd(
    path: Path,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], tuple[Structure, ...]]:
    """Labels (K, J, I) on the file's own grid, its affine (RAS), the structures in file order.

    Label values are the file's own where they are unique (segments in several layers may share
    one), else 1, 2, and so on. Where segments overlap, the later one is taken, and values that no
    segment has count as background, each with a warning.
    Raises InputError naming the file: missing or damaged.
    """
    header = read_header(path, "nrrd")
    try:
        segments = segments_of(header.fields)
        if header.dtype.kind not in "iu":
            raise ValueError("its voxels are not label values")
        for one in segments:
            if not (1 <= one.value <= _MOST and 0 <= one.layer < header.components):
                raise ValueError(f"no segment can have value {one.value} in layer {one.layer}")
        owners: dict[tuple[int, int], Segment] = {}
        for one in segments:
            owner = owners.setdefault((one.layer, one.value), one)
            if owner is not one:
                raise ValueError(
                    f"its segments '{owner.name}' and '{one.name}' have the same value "
                    f"{one.value} in one layer"
                )
    except ValueError as error:
        raise damaged(path, error) from error
    layers = read_voxels(header)
    if header.components == 1:
        layers = layers[..., np.newaxis]
    header.say_notes()
    if layers.ndim != 4 or layers.min() < 0 or layers.max() > _MOST:
        raise damaged(path, "its voxels are not label values of a volume")
    values = [one.value for one in segments]
    own = len(set(values)) == len(values) and max(values, default=0) <= 255
    structures = tuple(
        Structure(one.name, one.value if own else number + 1, one.color, one.terminology)
        for number, one in enumerate(segments)
    )
    check_structures(structures, f"The segmentation '{path}'")

    # By layer, the number of the segment that each value stands for, from 1.
    number_of = np.zeros((header.components, _MOST + 1), np.uint8)
    for number, one in enumerate(segments):
        number_of[one.layer, one.value] = number + 1
    label_of = np.array([0, *(structure.label for structure in structures)], np.uint8)
    labels = np.zeros(layers.shape[:3], np.uint8)
    shared = nameless = 0
    for plane, result in zip(layers, labels, strict=True):  # at once it takes 8 bytes a voxel
        numbers = [of_value[plane[..., layer]] for layer, of_value in enumerate(number_of)]
        result[:] = label_of[np.max(numbers, axis=0)]  # the later segment wins
        shared += int(np.count_nonzero(np.count_nonzero(numbers, axis=0) > 1))
        nameless += sum(
            int(np.count_nonzero((plane[..., layer] > 0) & (number == 0)))
            for layer, number in enumerate(numbers)
        )
    if nameless:
        _log.warning(
            "%s of '%s' %s a value that no segment of it has; %s as background.",
            counted(nameless, "voxel"),
            path,
            *(("has", "it counts") if nameless == 1 else ("have", "they count")),
        )
    if shared:
        _log.warning(
            "Segments of '%s' overlap in %s; there the later segment is taken.",
            path,
            counted(shared, "voxel"),
        )
    return labels, header.affine, structures


def write_segmentation(
    path: str | Path,
    labels: npt.NDArray,
    volume: Volume,
    structures: tuple[Structure, ...],
) -> None:
    """Write labels (uint8, on `volume`'s grid) as a `.seg.nrrd` that Slicer opens, with names,
    colours and terminology of `structures`, and `volume`'s grid as its reference geometry. A tag
    of every segment says of which image it is (`image_identity`).

    Nothing half written is left behind. Raises InputError for an extension, path or folder that
    cannot be used, ResourceError where writing fails.
    """
    check_writable(path, extensions=SEGMENTATION_EXTENSIONS)
    check_structures(structures, f"The segmentation for '{path}'")
    if labels.shape != volume.grid_shape:
        raise ValueError(f"{labels.shape} is not the volume's grid {volume.grid_shape}")
    identity = image_identity(volume)
    extent = [bound for size in labels.shape[::-1] for bound in (0, size - 1)]
    data = {
        "voxels": labels.astype(np.uint8, copy=False).transpose(2, 1, 0),
        "ijkToLPS": LPS_TO_RAS @ volume.affine,
        "containedRepresentationNames": ["Binary labelmap"],
        "conversionParameters": [
            {
                "name": "Reference image geometry",
                "value": _geometry(volume, extent),
                # Slicer drops the last parameter of the list unless "&" ends it.
                "description": "Grid of the volume that was segmented.&",
            }
        ],
        "segments": [_segment(structure, extent, identity) for structure in structures],
    }
    with atomic_write(path) as temporary:
        # Level 4 is 3 times as fast as the default 9 and within a few percent in size.
        slicerio.write_segmentation(str(temporary), data, compression_level=4)
        _write_characters(temporary)


def _ascii(text: str) -> str:
    """For slicerio, which refuses what is not ASCII: "ö" as "&#246;". A header line has no end
    of line within."""
    return " ".join(text.splitlines()).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _write_characters(path: Path) -> None:
    """Put the characters that `_ascii` replaced into the header, as UTF-8, as Slicer does."""
    header, _, voxels = path.read_bytes().partition(b"\n\n")
    whole = re.sub(rb"&#(\d+);", lambda found: chr(int(found[1])).encode("utf-8"), header)
    if whole != header:
        path.write_bytes(whole + b"\n\n" + voxels)


def _geometry(volume: Volume, extent: list[int]) -> str:
    numbers = [*volume.affine.ravel().tolist(), *extent]
    return "".join(f"{number:.17g};" for number in numbers)


def _segment(structure: Structure, extent: list[int], identity: str) -> dict[str, Any]:
    segment: dict[str, Any] = {
        "id": f"Segment_{structure.label}",
        "name": _ascii(structure.name),
        "nameAutoGenerated": False,
        "color": list(structure.color),
        "colorAutoGenerated": False,
        "labelValue": structure.label,
        "layer": 0,
        "extent": extent,
    }
    if structure.terminology.count("~") >= _TERMINOLOGY_PARTS - 1:
        segment["terminology"] = terminology_entry_from_string(_ascii(structure.terminology))
    segment["tags"] = {IDENTITY_TAG: identity}
    return segment


def _terminology(tags: str) -> str:
    """From a segment's "name:value|name:value|"; what has no colon is passed over."""
    for tag in tags.split("|"):
        name, _, value = tag.strip().partition(":")
        if name == "TerminologyEntry":
            return value
    return ""


def _color(text: str, value: int) -> tuple[float, float, float]:
    """The first three numbers; a colour of our own where there are no three."""
    try:
        red, green, blue = (float(part) for part in text.replace(",", " ").split()[:3])
    except ValueError:
        return default_color(value)
    if not all(0 <= part <= 1 for part in (red, green, blue)):
        return default_color(value)
    return red, green, blue
