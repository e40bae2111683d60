"""Slicer's segmentation files (`.seg.nrrd`), by Slicer's own `slicerio`."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import slicerio
from slicerio.segmentation import terminology_entry_from_string

from OFLSAM2Core.data.structures import Structure, check_structures
from OFLSAM2Core.data.volume import Volume
from OFLSAM2Core.errors import InputError
from OFLSAM2Core.io.atomic_write import atomic_write
from OFLSAM2Core.io.label_table import default_color
from OFLSAM2Core.io.sitk_io import unreadable
from OFLSAM2Core.io.writing import check_writable

SEGMENTATION_EXTENSIONS = (".seg.nrrd",)

_log = logging.getLogger(__name__)

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# The largest value looked for in a file; more would not be label values.
_MOST = 65535

# "category~type~modifier~anatomic context~region~modifier" after the context's name.
_TERMINOLOGY_PARTS = 7


def read_seg_nrrd(
    path: Path,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], tuple[Structure, ...]]:
    """Labels (K, J, I) on the file's own grid, its affine (RAS), the structures in file order.

    Label values are the file's own where they are unique (segments in several layers may share
    one), else 1, 2, and so on. Raises InputError naming the file: missing or damaged.
    """
    if not path.exists():
        raise InputError(f"There is no file '{path}'.", "Check the path.")
    try:
        data = slicerio.read_segmentation(str(path))
        # slicerio's (layer, i, j, k) is stored last index slowest: transposed it is in order.
        layers = np.asarray(data["voxels"]).T
        layers = layers if layers.ndim == 4 else layers[..., np.newaxis]
        segments = data["segments"]
        values = [int(segment.get("labelValue", 1)) for segment in segments]
        # Before layers were shared (Slicer 4.10) every segment had its own, in order.
        layer_of = [int(segment.get("layer", n)) for n, segment in enumerate(segments)]
        fields = _header(path)
        affine = _LPS_TO_RAS @ np.asarray(data["ijkToLPS"], np.float64)
        if layers.dtype.kind not in "iu" or layers.min() < 0 or layers.max() > _MOST:
            raise ValueError("its voxels are not label values")
        for value, layer in zip(values, layer_of, strict=True):
            if not (1 <= value <= _MOST and 0 <= layer < layers.shape[3]):
                raise ValueError(f"no segment can have value {value} in layer {layer}")
    except Exception as error:  # of many kinds: the parsers check nothing
        raise unreadable(path, error) from error
    own = len(set(values)) == len(values) and max(values, default=0) <= 255
    structures = tuple(
        Structure(
            fields.get(f"Segment{number}_Name", segment["id"]),
            value if own else number + 1,
            _color(segment, value),
            _terminology(fields.get(f"Segment{number}_Tags", "")),
        )
        for number, (segment, value) in enumerate(zip(segments, values, strict=True))
    )
    check_structures(structures, f"The segmentation '{path}'")

    # By layer, the number of the segment that each value stands for, from 1.
    number_of = np.zeros((layers.shape[3], _MOST + 1), np.uint8)
    for number, (value, layer) in enumerate(zip(values, layer_of, strict=True)):
        number_of[layer, value] = number + 1
    label_of = np.array([0, *(structure.label for structure in structures)], np.uint8)
    labels = np.zeros(layers.shape[:3], np.uint8)
    shared = 0
    for plane, result in zip(layers, labels, strict=True):  # at once it takes 8 bytes a voxel
        numbers = [of_value[plane[..., layer]] for layer, of_value in enumerate(number_of)]
        result[:] = label_of[np.max(numbers, axis=0)]  # the later segment wins
        shared += int(np.count_nonzero(np.count_nonzero(numbers, axis=0) > 1))
    if shared:
        _log.warning(
            "Segments of '%s' overlap in %d voxels; there the later segment is taken.",
            path,
            shared,
        )
    return labels, affine, structures


def write_segmentation(
    path: str | Path,
    labels: npt.NDArray,
    volume: Volume,
    structures: tuple[Structure, ...],
) -> None:
    """Write labels (uint8, on `volume`'s grid) as a `.seg.nrrd` that Slicer opens, with names,
    colours and terminology of `structures`, and `volume`'s grid as its reference geometry.

    Nothing half written is left behind. Raises InputError for an extension, path or folder that
    cannot be used, ResourceError where writing fails.
    """
    check_writable(path, extensions=SEGMENTATION_EXTENSIONS)
    check_structures(structures, f"The segmentation for '{path}'")
    if labels.shape != volume.grid_shape:
        raise ValueError(f"{labels.shape} is not the volume's grid {volume.grid_shape}")
    extent = [bound for size in labels.shape[::-1] for bound in (0, size - 1)]
    data = {
        "voxels": labels.astype(np.uint8, copy=False).transpose(2, 1, 0),
        "ijkToLPS": _LPS_TO_RAS @ volume.affine,
        "containedRepresentationNames": ["Binary labelmap"],
        "conversionParameters": [
            {
                "name": "Reference image geometry",
                "value": _geometry(volume, extent),
                # Slicer drops the last parameter of the list unless "&" ends it.
                "description": "Grid of the volume that was segmented.&",
            }
        ],
        "segments": [_segment(structure, extent) for structure in structures],
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


def _segment(structure: Structure, extent: list[int]) -> dict[str, Any]:
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
    return segment


def _header(path: Path) -> dict[str, str]:
    """The header's key/value pairs in all their characters: slicerio drops what is not ASCII."""
    fields = {}
    with open(path, "rb") as file:
        for line in iter(file.readline, b""):
            if not line.strip():
                break
            key, _, value = line.decode("utf-8", "replace").partition(":=")
            fields[key] = value.strip()
    return fields


def _terminology(tags: str) -> str:
    """From a segment's "name:value|name:value|"."""
    for tag in tags.split("|"):
        name, _, value = tag.strip().partition(":")
        if name == "TerminologyEntry":
            return value
    return ""


def _color(segment: dict[str, Any], value: int) -> tuple[float, float, float]:
    red, green, blue = segment.get("color", default_color(value))
    return (float(red), float(green), float(blue))
