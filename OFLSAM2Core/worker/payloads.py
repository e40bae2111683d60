"""Volumes, support cases and slice results as header fields and arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from OFLSAM2Core.data.corrections import Corrections
from OFLSAM2Core.data.results import SliceResult
from OFLSAM2Core.data.structures import Structure
from OFLSAM2Core.data.volume import SupportCase, Volume
from OFLSAM2Core.runtime.redaction import keep_out
from OFLSAM2Core.worker.protocol import Arrays, Frame, ProtocolError

Fields = dict[str, Any]


def support_to(cases: Sequence[SupportCase]) -> tuple[Fields, dict[str, npt.NDArray]]:
    """Fields and arrays of a "learn" request."""
    described = []
    arrays: dict[str, npt.NDArray] = {}
    for number, case in enumerate(cases):
        structures = [structure.to_json() for structure in case.structures]
        described.append({**_describe(case.volume), "structures": structures})
        arrays.update(_images(case.volume, f"image{number}"))
        arrays[f"labels{number}"] = case.labels
    return {"support": described}, arrays


def support_from(frame: Frame) -> tuple[SupportCase, ...]:
    """The support cases of a "learn" request.

    Raises ProtocolError for a request that is not well formed, InputError for cases that are wrong.
    """
    described = frame.header.get("support")
    if not isinstance(described, list):
        raise ProtocolError("A 'learn' request needs 'support', a list of cases.")
    cases = []
    for number, entry in enumerate(described):
        volume = _volume(entry, frame.arrays, f"image{number}")
        try:
            structures = tuple(Structure.from_json(item) for item in entry["structures"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(
                f"Support case {number} has bad 'structures': {error!r}."
            ) from error
        cases.append(SupportCase(volume, _array(frame.arrays, f"labels{number}"), structures))
    return tuple(cases)


def volume_to(volume: Volume) -> tuple[Fields, dict[str, npt.NDArray]]:
    """Fields and arrays of a "segment" request."""
    return {"volume": _describe(volume)}, _images(volume, "image")


def volume_from(frame: Frame) -> Volume:
    """The volume of a "segment" request. Raises ProtocolError."""
    return _volume(frame.header.get("volume"), frame.arrays, "image")


def corrections_to(corrections: Corrections) -> tuple[Fields, dict[str, npt.NDArray]]:
    """Fields and arrays of a "correct" request."""
    fields = {"image": corrections.image} if corrections.image else {}
    return fields, {"labels": corrections.labels, "known": corrections.known.astype(np.uint8)}


def corrections_from(frame: Frame) -> Corrections:
    """The corrections of a "correct" request. Raises ProtocolError, or InputError where labels and
    mask have different shapes."""
    labels, known = _array(frame.arrays, "labels"), _array(frame.arrays, "known")
    image = frame.header.get("image", "")
    if not isinstance(image, str):
        raise ProtocolError("The 'image' of a 'correct' request is no identity of an image.")
    # Copies: what is kept of them outlives the request.
    return Corrections(labels.copy(), known.astype(bool), image)


def slice_to(result: SliceResult) -> tuple[Fields, dict[str, npt.NDArray]]:
    """Fields and arrays of a "slice" event."""
    fields = {
        "index": int(result.index),
        "axis": int(result.axis),
        "scores": {name: float(score) for name, score in result.scores.items()},
        "revision": int(result.revision),
    }
    return fields, {"labels": result.labels, "confidence": result.confidence}


def slice_from(header: Mapping[str, Any], arrays: Arrays) -> SliceResult:
    """The slice of a "slice" event."""
    return SliceResult(
        index=header["index"],
        axis=header["axis"],
        labels=arrays["labels"],
        confidence=arrays["confidence"],
        scores=header["scores"],
        revision=header["revision"],
    )


def _images(volume: Volume, name: str) -> dict[str, npt.NDArray]:
    """The volume's array, and those of its further volumes as "NAME+1", "NAME+2"."""
    further = {f"{name}+{n}": each.array for n, each in enumerate(volume.further, start=1)}
    return {name: volume.array, **further}


def _describe(volume: Volume) -> Fields:
    described = {"name": volume.name, "affine": np.asarray(volume.affine, float).tolist()}
    if volume.further:
        described["further"] = [_describe(each) for each in volume.further]
    return described


def _volume(entry: Any, arrays: Arrays, array_name: str) -> Volume:
    first = _one_volume(entry, arrays, array_name)
    described = entry.get("further", [])
    if not isinstance(described, list):
        raise ProtocolError(f"The 'further' volumes of '{first.name}' are no list.")
    further = tuple(
        _one_volume(each, arrays, f"{array_name}+{n}") for n, each in enumerate(described, start=1)
    )
    return replace(first, further=further)


def _one_volume(entry: Any, arrays: Arrays, array_name: str) -> Volume:
    try:
        affine = np.array(entry["affine"], float)
        name = str(entry.get("name", "volume"))
        keep_out([name])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"The description of '{array_name}' is wrong: {error!r}.") from error
    if affine.shape != (4, 4):
        raise ProtocolError(f"The affine of '{name}' is not 4x4.")
    array = _array(arrays, array_name)
    if array.ndim not in (3, 4):
        raise ProtocolError(f"The array of '{name}' has {array.ndim} dimensions.")
    return Volume(array, affine, name)


def _array(arrays: Arrays, name: str) -> npt.NDArray:
    if name not in arrays:
        raise ProtocolError(f"The request lacks the array '{name}'.")
    return arrays[name]
