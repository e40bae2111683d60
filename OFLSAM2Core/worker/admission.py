"""Enough memory for a request, found out from its header before its arrays are taken in."""

from __future__ import annotations

import math

from OFLSAM2Core.errors import ResourceError
from OFLSAM2Core.runtime.memory_estimate import (
    bytes_to_learn,
    bytes_to_segment,
    not_yet_held,
)
from OFLSAM2Core.worker.protocol import Head, ProtocolError

_SEGMENTING = ("segment", "correct")
_LEARNING = ("learn", "add_case")
_WORDS = {
    "segment": "Segmenting this volume",
    "correct": "Learning from the corrections of this volume",
    "learn": "Learning from these volumes",
    "add_case": "Adding this volume to the support",
}


def require_memory_for(head: Head) -> None:
    """What its arrays and the work on them will take, as far as shapes tell it: structures are in
    the learned task, and counted by the session.

    Raises ProtocolError of the kind "resource" where that is not free.
    """
    try:
        from OFLSAM2Core.runtime.memory_check import require_memory
    except ImportError:  # psutil is missing, and `hello` says so
        return
    try:
        require_memory(
            max(_work(head), head.size),
            _WORDS.get(str(head.header.get("request")), "This request"),
            "Close other programs, or crop the volume.",
        )
    except ResourceError as error:
        raise ProtocolError(
            error.message, error.hint, header=head.header, kind="resource"
        ) from error


def _work(head: Head) -> float:
    request = head.header.get("request")
    images = [(shape, kind) for name, kind, shape in head.listed if name.startswith("image")]
    if request in _LEARNING and images:
        needed = bytes_to_learn((math.prod(shape), kind.itemsize) for shape, kind in images)
        return not_yet_held(needed)
    if request in _SEGMENTING and images and len(images[0][0]) >= 3:
        shape, kind = images[0]
        # Colours, of a sequence of frames, come last.
        size = kind.itemsize * math.prod(shape[3:])
        return not_yet_held(bytes_to_segment(shape[:3], size, 1))
    return 0.0
