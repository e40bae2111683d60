"""An encoder converted for OpenVINO, kept in the cache folder: 12 s of tracing and converting that
are needed only once for a weights file and a version of OpenVINO.

One file holds graph and constants as bytes, and their SHA-256. Nothing in it can run: it is a
description of a network. A file that is damaged, or that somebody else owns, is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from OFLSAM2Core import __version__
from OFLSAM2Core.backbones.weights import converted_folder
from OFLSAM2Core.errors import ResourceError
from OFLSAM2Core.runtime.atomic_write import atomic_write
from OFLSAM2Core.runtime.temporary import temporary_folder

_FORMAT = "1"
_log = logging.getLogger(__name__)


def converted_path(identity: str, openvino_version: str, image_size: int) -> Path:
    """Where the encoder of the weights with SHA-256 `identity` is kept, for images of a size."""
    of = f"{_FORMAT} {__version__} {openvino_version} {image_size}"
    version = hashlib.sha256(of.encode()).hexdigest()
    return converted_folder() / f"{identity}-{version[:16]}.safetensors"


def read_converted(path: Path) -> tuple[bytes, bytes] | None:
    """Graph (XML) and constants, or None where they are not there, damaged, or not ours."""
    from safetensors import SafetensorError, safe_open

    try:
        owner = path.stat().st_uid
        if hasattr(os, "getuid") and owner not in (os.getuid(), 0):
            return None
        with safe_open(path, framework="numpy") as file:
            graph, constants = (file.get_tensor(name).tobytes() for name in ("graph", "constants"))
            recorded = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError) as error:
        _log.info("The converted encoder cannot be read: %s", error)
        return None
    if recorded != _sha256(graph, constants):
        _log.info("The converted encoder is damaged and is made again.")
        return None
    return graph, constants


def keep_converted(path: Path, openvino: Any, model: Any) -> None:
    """Write a model for the next time; without a cache folder that can be written, do nothing."""
    from safetensors.numpy import save_file

    with contextlib.suppress(OSError, ResourceError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with temporary_folder() as folder:
            graph = folder / "encoder.xml"
            openvino.save_model(model, str(graph), compress_to_fp16=False)
            parts = [graph.read_bytes(), graph.with_suffix(".bin").read_bytes()]
        tensors = dict(zip(("graph", "constants"), _as_arrays(parts), strict=True))
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, {"sha256": _sha256(*parts)})
        path.chmod(0o600)


def _as_arrays(parts: list[bytes]) -> list[np.ndarray]:
    return [np.frombuffer(part, np.uint8) for part in parts]


def _sha256(graph: bytes, constants: bytes) -> str:
    digest = hashlib.sha256(len(graph).to_bytes(8, "little"))
    digest.update(graph)
    digest.update(constants)
    return digest.hexdigest()
